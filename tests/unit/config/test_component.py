"""component.xml describes each option, as the settings have it."""

from collective.taskqueue import config
from collective.taskqueue.config import keys
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import refusal
from collective.taskqueue.config import sections
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.config.keys import SECTION_TYPES
from pathlib import Path
from xml.etree import ElementTree
from zopeconf import C112_QUEUE
from zopeconf import C112_SERVER
from zopeconf import OUR_QUEUE
from zopeconf import OUR_SERVER
from zopeconf import values_of
import pytest
import re


COMPONENT = ElementTree.parse(Path(keys.__file__).parents[1] / "component.xml").getroot()


def keys_of(section):
    (found,) = [item for item in COMPONENT if item.get("name") == section]
    return found.findall("key")


@pytest.mark.parametrize("section", SECTION_TYPES)
def test_everything_is_described(section):
    """The sections and every key: component.xml is what an administrator reads."""
    (found,) = [item for item in COMPONENT if item.get("name") == section]
    for item in (found, *keys_of(section)):
        text = item.findtext("description") or ""
        assert len(text.split()) >= 5
        assert text.strip()[0].isupper()
        assert text.strip().endswith(".")


@pytest.mark.parametrize(
    ("section", "settings"), [("taskqueue", QueueSettings), ("taskqueue-server", ServerSettings)]
)
def test_component_and_settings_have_the_same_keys(section, settings):
    """One is the documentation of the other; their defaults are compared above."""
    assert [item.get("name") for item in COMPONENT] == list(SECTION_TYPES)
    keys = {key.get("name") for key in keys_of(section)}
    assert keys == set(values_of(settings()))
    assert all(key.get("datatype") for key in keys_of(section))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (QueueSettings, {**C112_QUEUE, **OUR_QUEUE}),
        (ServerSettings, {**C112_SERVER, **OUR_SERVER}),
    ],
)
def test_settings_have_the_defaults_of_the_component(settings, expected):
    """Code that makes settings without zope.conf gets what zope.conf would have given."""
    assert values_of(settings()) == expected


def test_the_page_about_zope_conf_names_functions_that_there_are():
    """The ones of this module, or those of ZConfig and Python that they stand for."""
    page = Path(__file__).parents[3] / "docs" / "explanation" / "zopeconf.rst"
    (block,) = re.findall(r"::\n\n((?: {4}.*\n|\n)+)", page.read_text(encoding="utf-8"))
    named = re.findall(r"^ +(?:config\.)?(\w+) {2,}\S|\b(_\w+)", block, re.MULTILINE)
    names = {name for pair in named for name in pair if name}
    assert {"start_section", "resolve", "_named", "_finish_and_check"} <= names
    places = (sections, sections._Section, refusal, config, QueueSettings)
    assert [name for name in names if not any(hasattr(place, name) for place in places)] == []
