"""What is built is what is here: every file that the code needs travels in the wheel."""

from pathlib import Path
from zipfile import ZipFile
import shutil
import subprocess
import sys


ROOT = Path(__file__).parents[2]
NEEDED = ("CHANGES.rst", "LICENSE", "MANIFEST.in", "README.rst", "pyproject.toml", "setup.py")

#: A wheel is built in two seconds; only a failure takes this long.
BUILD_TIMEOUT = 120.0

BUILD = "from setuptools.build_meta import *; build_sdist('dist'); build_wheel('dist')"


def build(folder):
    """Build in a copy, so that nothing is left behind here or found there by chance."""
    for name in NEEDED:
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return next((folder / "dist").glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    with ZipFile(build(tmp_path)) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    sources = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "collective").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == sources
    assert "collective/__init__.py" not in packed
