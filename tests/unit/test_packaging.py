"""What is built is what is here: every file that the code needs travels in the wheel."""

from docutils import nodes
from docutils.core import publish_doctree
from email.parser import Parser
from itertools import product
from pathlib import Path
from zipfile import ZipFile
import json
import os
import pytest
import re
import shutil
import subprocess
import sys
import tomllib


ROOT = Path(__file__).parents[2]
NEEDED = ("CHANGES.rst", "LICENSE", "MANIFEST.in", "README.rst", "pyproject.toml", "setup.py")

#: A wheel is built in two seconds; only a failure takes this long.
BUILD_TIMEOUT = 120.0

BUILD = "from setuptools.build_meta import *; build_sdist('dist'); build_wheel('dist')"


def copy(folder):
    """Copy what is built, so that nothing is left behind here or found there by chance."""
    for name in NEEDED:
        shutil.copy(ROOT / name, folder)
    made = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.mo")
    shutil.copytree(ROOT / "src", folder / "src", ignore=made)


def build(folder):
    """Build the project in a folder, and return the open wheel."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return ZipFile(next((folder / "dist").glob("*.whl")))


def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    copy(folder)
    with build(folder) as built:
        yield built


def test_the_wheel_holds_every_file_of_the_package(wheel):
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = [path for path in (ROOT / "src" / "collective").rglob("*") if path.is_file()]
    files = [path for path in files if "__pycache__" not in path.parts and path.suffix != ".mo"]
    compiled = [path.with_suffix(".mo") for path in files if path.suffix == ".po"]
    assert compiled
    sources = {path.relative_to(ROOT / "src").as_posix() for path in [*files, *compiled]}
    assert packed == sources
    assert "collective/__init__.py" not in packed


def links(text):
    """Return the targets of all links and images of a page."""
    tree = publish_doctree(text, settings_overrides={"syntax_highlight": "none"})
    found = {node["refuri"] for node in tree.findall(nodes.reference)}
    return found | {node["uri"] for node in tree.findall(nodes.image)}


def test_the_long_description_is_readme_and_changelog_with_absolute_links(wheel):
    """The page of a package index has no files beside it."""
    text = metadata(wheel).get_payload()
    assert "\nChangelog\n=========\n" in text
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.rst", "CHANGES.rst")]
    files = "https://github.com/collective/collective.taskqueue/blob/main/"
    relative = {link for page in pages for link in links(page) if not link.startswith("https://")}
    assert relative
    assert {files + link for link in relative} <= links(text)
    assert all(link.startswith("https://") for link in links(text))


def test_the_links_of_a_release_lead_to_its_own_files(tmp_path):
    """What is written about another version does not hold for this one."""
    copy(tmp_path)
    project = tmp_path / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    version = tomllib.loads(text)["project"]["version"]
    project.write_text(text.replace(f'version = "{version}"', 'version = "2.0.0a1"', 1))
    with build(tmp_path) as built:
        found = metadata(built)
    assert found["Version"] == "2.0.0a1"
    files = "https://github.com/collective/collective.taskqueue/blob/"
    tags = {
        link.removeprefix(files).split("/")[0]
        for link in links(found.get_payload())
        if link.startswith(files)
    }
    assert tags == {"2.0.0a1"}


def test_what_is_declared_is_what_is_tested():
    """Classifiers, tox, CI and the table of the reference name the same versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    classifiers = "\n".join(project["classifiers"])
    python = re.findall(r"Python :: (3\.\d+)$", classifiers, re.MULTILINE)
    plone = re.findall(r"Plone :: ([\d.]+)$", classifiers, re.MULTILINE)
    assert project["requires-python"] == f">={python[0]}"
    assert f"Products.CMFPlone >= {plone[0]}" in project["dependencies"]

    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^env_list =\n((?:    .+\n)+)", tox, re.MULTILINE)
    tested = {
        (f"{line[0]}.{line[1:]}", f"3.{version.removeprefix('3')}")
        for versions, line in re.findall(r"py\{([\d,]+)\}-plone(\d+)", listed)
        for version in versions.split(",")
    }
    assert {pair[0] for pair in tested} == set(plone)
    assert {pair[1] for pair in tested} == set(python)
    assert matrix_of_ci() == tested
    page = (ROOT / "docs/reference/versions.rst").read_text(encoding="utf-8")
    assert set(re.findall(r"^(\d\.\d)\.\d+ +(\d\.\d+)\.\d+ ", page, re.MULTILINE)) == tested


def matrix_of_ci():
    """Return each combination of Plone and Python that the workflow runs."""
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    plone, python = (
        json.loads(re.search(rf"^        {axis}: (\[.+\])$", workflow, re.MULTILINE)[1])
        for axis in ("plone", "python")
    )
    more = re.findall(r'- plone: "([\d.]+)"\n +python: "([\d.]+)"', workflow)
    return {*product(plone, python), *more}


def test_the_tested_plone_is_the_one_that_is_resolved():
    """The table of the reference names the release of each line of Plone."""
    page = (ROOT / "docs/reference/versions.rst").read_text(encoding="utf-8")
    releases = set(re.findall(r"^(\d\.\d\.\d+) +\d\.\d+\.\d+ ", page, re.MULTILINE))
    names = [path.name for path in ROOT.glob("constraints*.txt")]
    pins = [re.search(r"^products-cmfplone==(.+)$", (ROOT / n).read_text(), re.M)[1] for n in names]
    assert releases == set(pins)
    assert len(names) == len(releases)


COMBINATIONS = {
    "PLONE=6.2 PYTHON=python3": ("constraints.txt", ".venv"),
    "PLONE=6.1 PYTHON=python3": ("constraints-6.1.txt", ".venvs/plone6.1-python{minor}"),
    "PLONE=6.2 PYTHON={path}": ("constraints.txt", ".venvs/plone6.2-python{minor}"),
    "PLONE=6.1 PYTHON={path}": ("constraints-6.1.txt", ".venvs/plone6.1-python{minor}"),
    "PLONE=6.1 PYTHON={path} VENV=here": ("constraints-6.1.txt", "here"),
}


def make(*arguments, **environ):
    """Return what make would run in a fresh clone."""
    inherited = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        ["make", "--dry-run", "--always-make", "install", *arguments],
        cwd=ROOT,
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize("arguments", COMBINATIONS)
def test_each_combination_has_an_environment_of_its_own(tmp_path, arguments):
    (tmp_path / "python3").symlink_to(sys.executable)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    constraints, folder = COMBINATIONS[arguments]
    done = make(*arguments.format(path=sys.executable).split(), PATH=path)
    assert done.returncode == 0, done.stderr
    used = re.findall(r"--constraint (\S+)", done.stdout)
    assert set(used) == {constraints}
    minor = "{}.{}".format(*sys.version_info)
    assert f"-m venv {folder.format(minor=minor)}\n" in done.stdout


@pytest.mark.parametrize("tool", ["pyenv", "uv"])
def test_make_finds_an_interpreter_that_is_not_on_the_path(tmp_path, tool):
    folder = tmp_path / "versions" / "3.99.1" / "bin"
    folder.mkdir(parents=True)
    (folder / "python3.99").symlink_to(sys.executable)
    variable = {
        "pyenv": {"PYENV_ROOT": str(tmp_path)},
        "uv": {"UV_PYTHON_INSTALL_DIR": str(tmp_path / "versions")},
    }
    done = make("PYTHON=python3.99", **variable[tool])
    assert f"{folder}/python3.99 -m venv" in done.stdout


def test_make_says_where_to_get_an_interpreter():
    done = make("PYTHON=python3.99")
    assert done.returncode != 0
    assert "python3.99 is not found; CONTRIBUTING.rst says where to get it" in done.stderr


def test_tox_calls_targets_of_the_makefile():
    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^    make ([a-z]+)", tox, re.MULTILINE)
    assert targets
    assert all(re.search(rf"^{target}:.*## ", makefile, re.MULTILINE) for target in targets)
