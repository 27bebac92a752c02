"""Compiled catalogues, and a long description with absolute links.

All metadata is in pyproject.toml. README.rst links to files beside it, which the page of a package
index does not have.
"""

from pathlib import Path
from pythongettext.msgfmt import Msgfmt
from setuptools import setup
import re
import tomllib


ROOT = Path(__file__).parent


def compile_catalogues() -> None:
    """Write the .mo file that Zope reads beside each .po file."""
    for catalogue in ROOT.glob("src/**/*.po"):
        with catalogue.open("rb") as lines:
            catalogue.with_suffix(".mo").write_bytes(Msgfmt(lines).get())


def long_description() -> str:
    """Return README.rst and CHANGES.rst, with links to the files of this version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tag = "main" if ".dev" in project["version"] else project["version"]
    pages = (ROOT / name for name in ("README.rst", "CHANGES.rst"))
    text = "\n\n".join(page.read_text(encoding="utf-8") for page in pages)
    return re.sub(r"<([\w./-]+)>`_", rf"<{project['urls']['Source']}/blob/{tag}/\1>`_", text)


compile_catalogues()
setup(long_description=long_description(), long_description_content_type="text/x-rst")
