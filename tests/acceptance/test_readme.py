"""The add-on of README.rst: copied from there, installed, and used in a Plone process."""

from acceptance.instance import basic
from acceptance.instance import HERE
from acceptance.instance import PLONE_ZCML
from acceptance.instance import wait_for
from importlib.metadata import version
from packaging.requirements import Requirement
from readme import addon_files
from readme import write_addon
from zipfile import ZipFile
import os
import pytest
import re
import subprocess
import sys
import tomllib


#: A wheel is built in two seconds; only a failure takes this long.
BUILD_TIMEOUT = 120.0

#: What pip does with a project that names no other tool.
BUILD = "from setuptools.build_meta import build_wheel; build_wheel('dist')"

PREPARE = """\
from plone import api
from zope.component.hooks import setSite
import transaction

site = app.Plone
setSite(site)
with api.env.adopt_roles(["Manager"]):
    site.portal_setup.runAllImportStepsFromProfile("profile-my_addon:default")
    folder = api.content.create(site, "Folder", "news")
    for name in ("one", "two"):
        api.content.create(folder, "Document", name)
transaction.commit()
"""

LOOK = """\
for page in app.Plone.news.objectValues():
    print(page.getId(), round(page.expires() - page.created()))
print("taskauth" in app.Plone.acl_users.objectIds())
"""


@pytest.fixture(scope="module")
def addon(tmp_path_factory):
    """A folder with what an installer puts there: the content of the wheel of the add-on."""
    folder = tmp_path_factory.mktemp("readme")
    source = write_addon(folder)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (source / "dist").glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture
def instance(addon, template, tmp_path):
    environ = {"PYTHONPATH": os.pathsep.join([str(HERE), str(addon)])}
    instance = template.copy(tmp_path / "zope", addon_files()["zope.conf"], environ=environ)
    yield instance
    instance.kill()


def test_the_add_on_works(instance):
    """Plone finds its ZCML; a button queues the task, which runs as the person who pressed it."""
    instance.script(PREPARE)
    instance.start()
    editor = basic("editor")

    page = instance.get("/Plone/news/@@expire-button", editor).decode()
    assert "<button>Expire all pages in 30 days</button>" in page
    token = re.search(r'name="_authenticator" [^>]*value="(\w+)"', page)[1]
    assert instance.request("POST", "/Plone/news/@@expire-button", b"", editor)[0] == 403
    body = f"_authenticator={token}".encode()
    headers = {**editor, "Content-Type": "application/x-www-form-urlencoded"}
    status, _, answer = instance.request("POST", "/Plone/news/@@expire-button", body, headers)
    assert (status, answer) == (200, b"The task is queued.")

    (line,) = wait_for(lambda: instance.lines("[collective.taskqueue.access"), "the task to end")
    assert "/Plone/news/expire-pages" in line
    assert " 200 " in line
    assert "editor" in line
    assert instance.request("GET", "/Plone/news/@@expire-pages", headers=editor)[0] == 404

    instance.stop()
    shown = instance.script(LOOK).stdout.splitlines()
    assert shown == ["one 30", "two 30", "True"]


def test_the_add_on_may_be_loaded_before_the_products(instance):
    """What its ZCML refers to is there, because it includes that itself."""
    first = '<include package="my_addon" />\n  <five:loadProducts file="meta.zcml" />'
    zcml = PLONE_ZCML.replace('<five:loadProducts file="meta.zcml" />', first)
    assert zcml != PLONE_ZCML
    (instance.home / "etc" / "site.zcml").write_text(zcml)
    assert instance.script("print('loaded')").stdout == "loaded\n"


def test_what_the_add_on_requires():
    """pip takes the version of this checkout, and the release that follows it."""
    project = tomllib.loads(addon_files()["my-addon/pyproject.toml"])["project"]
    found = [Requirement(text) for text in project["dependencies"]]
    (ours,) = [item for item in found if item.name == "collective.taskqueue"]
    assert ours.specifier.contains(version("collective.taskqueue"))
    assert ours.specifier.contains("2.0.0a1")
