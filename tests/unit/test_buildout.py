"""buildout.cfg is what integrators copy: it parses, and its versions are ours."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from configparser import RawConfigParser
from pathlib import Path
import pytest
import re
import ZConfig
import Zope2.Startup


ROOT = Path(__file__).parents[2]
SCHEMA = Path(Zope2.Startup.__file__).parent / "wsgischema.xml"

ZOPE_CONF = """\
instancehome {home}
<zodb_db main>
    <mappingstorage />
    mount-point /
</zodb_db>
{snippet}
"""

#: A line of constraints.txt: name, version and the condition on which it holds.
PIN = re.compile(r"([a-z0-9-]+)==([^ ;]+)(?: ; (.+))?")


def parse(name):
    parser = RawConfigParser(delimiters=("=",), strict=False)
    parser.read_string((ROOT / name).read_text(), name)
    return parser


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [PIN.fullmatch(line) for line in lines if line and not line.startswith("#")]
    assert all(found)
    return {(match[1], match[2], match[3] or "") for match in found}


def test_the_snippet_parses_with_the_schema_of_zope(tmp_path):
    """C110, C111: the predecessors' lines, the section's name as that of the consumer."""
    snippet = parse("buildout.cfg")["instance"]["zope-conf-additional"]
    assert snippet.split() == [
        *("%import", "collective.taskqueue"),
        *("<taskqueue", "/>"),
        *("<taskqueue-server>", "name", "${:_buildout_section_name_}", "</taskqueue-server>"),
    ]
    conf = tmp_path / "zope.conf"
    named = snippet.replace("${:_buildout_section_name_}", "instance")
    conf.write_text(ZOPE_CONF.format(home=tmp_path, snippet=named))
    config, _ = ZConfig.loadConfig(ZConfig.loadSchema(str(SCHEMA)), str(conf))
    sections = config.product_config.values()
    queues = [section for section in sections if isinstance(section, QueueSettings)]
    servers = [section for section in sections if isinstance(section, ServerSettings)]
    assert [(queue.queue, queue.type) for queue in queues] == [("default", "local")]
    assert [(server.queue, server.name) for server in servers] == [("default", "instance")]


def test_buildout_develops_this_checkout():
    instance = parse("buildout.cfg")["instance"]
    assert instance["recipe"] == "plone.recipe.zope2instance"
    assert "collective.taskqueue" in instance["eggs"].split()
    folders = parse("buildout.cfg")["buildout"]["develop"].split()
    assert folders == [".", "examples/demo"]
    assert all((ROOT / folder / "setup.py").exists() for folder in folders)


def test_nothing_comes_from_elsewhere_than_the_package_index():
    buildout = parse("buildout.cfg")["buildout"]
    assert buildout["extends"] == "versions.cfg"
    assert buildout["allow-picked-versions"] == "false"
    assert "://" not in (ROOT / "buildout.cfg").read_text()


def test_versions_are_those_of_the_constraints():
    """Run `make versions.cfg` after a change of constraints.txt."""
    parser = parse("versions.cfg")
    versions = {
        (name.replace(".", "-"), version, section.removeprefix("versions").removeprefix(":"))
        for section in parser.sections()
        for name, version in parser[section].items()
    }
    assert versions == pins()


@pytest.mark.parametrize("name", ["zc.buildout", "zc.recipe.egg"])
def test_buildout_finds_its_own_packages_by_their_dotted_names(name):
    """Without, it picks versions of its own and then refuses what it has picked."""
    assert name in parse("versions.cfg")["versions"]


def test_what_runs_buildout_is_pinned():
    lines = (ROOT / "requirements-buildout.txt").read_text().splitlines()
    names = [line for line in lines if not line.startswith("#")]
    assert names.pop(0) == "-c constraints.txt"
    assert "zc.buildout" in names
    assert {name.replace(".", "-") for name in names} <= {pin[0] for pin in pins()}
