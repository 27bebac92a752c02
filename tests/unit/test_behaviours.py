"""Each id that code names is explained in the appendix of the docs, and tested."""

from docutils import nodes
from docutils.core import publish_doctree
from functools import cache
from pathlib import Path
import re


ROOT = Path(__file__).parents[2]

ID = re.compile(r"\b[CDHNOTU]\d{2,3}[a-z]?\b")
GUARANTEE = re.compile(r"\bguarantees? (\d)(?: (?:to|and) (\d))?", re.IGNORECASE)

#: Tests, and the tests for those who write a storage.
TESTS = ("tests", "src/collective/taskqueue/testing")

NOT_KEPT = "What was not kept"


@cache
def page(name):
    """Return a page as a tree; a warning of docutils is an error here."""
    settings = {"halt_level": 2, "report_level": 2}
    path = ROOT / name
    return publish_doctree(path.read_text(encoding="utf-8"), str(path), settings_overrides=settings)


def sources(*folders):
    """Yield the path and the text of each module in the folders."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def rows():
    """Return the ids that the page explains, each with the title of its section."""
    found = {}
    for section in page("docs/appendix/behaviours.rst").findall(nodes.section):
        for row in section.findall(nodes.row):
            found[row.children[0].astext()] = section.children[0].astext()
    return {name: title for name, title in found.items() if ID.fullmatch(name)}


def test_an_id_that_code_names_is_explained():
    """It is a row of the page, and not of the behaviours that were not kept."""
    kept = {name for name, title in rows().items() if title != NOT_KEPT}
    assert kept
    unknown = {
        (path, name)
        for path, text in sources("benchmarks", "examples", "src", "tests")
        for name in set(ID.findall(text)) - kept
    }
    assert unknown == set()


def test_a_behaviour_that_is_kept_is_tested():
    """A test names its id."""
    kept = {name for name, title in rows().items() if title != NOT_KEPT}
    named = {name for _, text in sources(*TESTS) for name in ID.findall(text)}
    assert kept - named == set()


def test_a_guarantee_that_code_names_is_in_the_readme():
    """By its number in the README's list."""
    (section,) = [
        node
        for node in page("README.rst").findall(nodes.section)
        if node.children[0].astext() == "What is guaranteed, and what is not"
    ]
    (numbered,) = section.findall(nodes.enumerated_list)
    numbers = {
        int(number)
        for _, text in sources("benchmarks", "examples", "src", "tests")
        for found in GUARANTEE.findall(text)
        for number in found
        if number
    }
    assert numbers
    assert numbers <= set(range(1, len(numbered.children) + 1))
