"""The pages of reference say the same as the code."""

from collective.taskqueue.enqueue.options import OPTIONS
from pathlib import Path
from textwrap import wrap
from xml.etree import ElementTree
import collective.taskqueue
import pytest
import re


ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "reference"
COMPONENT = Path(collective.taskqueue.__path__[0]) / "component.xml"


@pytest.mark.parametrize("section", ["taskqueue", "taskqueue-server"])
def test_configuration_table(section):
    """Every key with its default, described in the words of component.xml."""
    table = configuration_table(section)
    page = DOCS / "configuration.rst"
    text = page.read_text(encoding="utf-8")
    assert f".. {section}\n\n{table}\n\n" in text, f"{page.name} must say:\n\n{table}"


def configuration_table(section):
    """Return the table of a section type, as the page has to show it."""
    (found,) = (
        item
        for item in ElementTree.parse(COMPONENT).iter("sectiontype")
        if item.get("name") == section
    )
    lines = [".. list-table::", "   :header-rows: 1", "", "   * - Key", "     - Default"]
    lines.append("     - Meaning")
    for key in found.iter("key"):
        default = key.get("default")
        lines.append(f"   * - ``{key.get('name')}``")
        lines.append(f"     - ``{default}``" if default else "     -")
        text = " ".join(key.findtext("description").split())
        lines += wrap(text, 100, initial_indent="     - ", subsequent_indent="       ")
    return "\n".join(lines)


def test_options():
    """Every option of `add()`, in the order of the code."""
    text = (DOCS / "options.rst").read_text(encoding="utf-8")
    table = text.partition(".. options\n")[2]
    assert re.findall(r"^   \* - ``(\w+)``$", table, re.MULTILINE) == list(OPTIONS)
