"""Long description with absolute links; all other metadata is in pyproject.toml.

README.rst links to files beside it, which the page of a package index does not have.
"""

from pathlib import Path
from setuptools import setup
import re
import tomllib


ROOT = Path(__file__).parent


def long_description() -> str:
    """Return README.rst and CHANGES.rst, with links to the files of this version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tag = "main" if ".dev" in project["version"] else project["version"]
    pages = (ROOT / name for name in ("README.rst", "CHANGES.rst"))
    text = "\n\n".join(page.read_text(encoding="utf-8") for page in pages)
    return re.sub(r"<([\w./-]+)>`_", rf"<{project['urls']['Source']}/blob/{tag}/\1>`_", text)


setup(long_description=long_description(), long_description_content_type="text/x-rst")
