"""Every id that a test proves something by is explained in docs/appendix/behaviours.rst."""

from docutils import nodes
from docutils.core import publish_doctree
from pathlib import Path
import ast
import io
import re
import tokenize


ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "appendix" / "behaviours.rst"
SOURCES = [
    path
    for folder in ("benchmarks", "examples", "src", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

ID = re.compile(r"\b[CDHNOTU]\d{2,3}[a-z]?\b")
GUARANTEE = re.compile(r"\bguarantees? (\d)(?: (?:to|and) (\d))?", re.IGNORECASE)

#: What was written down of the systems that called web hooks, and of the tests of all: each
#: of these is on the page. Of C and D there is what tests name.
WRITTEN_DOWN = {
    "N": [*range(1, 16), *range(20, 27), *range(30, 51), *range(60, 67)],
    "T": range(1, 16),
    "O": range(1, 20),
    "H": range(1, 26),
    "U": range(1, 49),
}

#: Folders whose files are tests: some of them are there for those who write a storage.
TESTS = ("tests/", "src/collective/taskqueue/testing/")

NOT_KEPT = "What was not kept"


def read(path):
    settings = {"halt_level": 2, "report_level": 2}
    return publish_doctree(path.read_text(encoding="utf-8"), str(path), settings_overrides=settings)


def remarks(path):
    """Return the docstrings and comments of a file."""
    source = path.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = [token.string for token in tokens if token.type == tokenize.COMMENT]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documented = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return found + [ast.get_docstring(node) or "" for node in documented]


def named():
    """Return the ids that are named, each with the files that do so."""
    found = {}
    for path in SOURCES:
        for text in remarks(path):
            for name in ID.findall(text):
                found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return found


def rows():
    """Return the first cell of each row of each table of the page, in order."""
    return [name for names in tables().values() for name in names]


def tables():
    """Return the first cells of the table of each section, by its title."""
    found = {}
    for body in read(PAGE).findall(nodes.tbody):
        section = next(node for node in ancestors(body) if isinstance(node, nodes.section))
        cells = [row.children[0].astext() for row in body.findall(nodes.row)]
        found[section.children[0].astext()] = cells
    return found


def ancestors(node):
    while node.parent is not None:
        node = node.parent
        yield node


def proved():
    """Return the ids that the docstring of a test, or of a class of them, names."""
    found = set()
    for path in SOURCES:
        if str(path.relative_to(ROOT)).startswith(TESTS):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                kinds = (ast.FunctionDef, ast.ClassDef)
                if isinstance(node, kinds) and node.name.lower().startswith("test"):
                    found.update(ID.findall(ast.get_docstring(node) or ""))
    return found


def order(name):
    """Return what an id is sorted by within its group."""
    letter, number, suffix = re.fullmatch(r"(.)(\d+)(.?)", name).groups()
    return letter, int(number), suffix


def test_what_is_named_is_explained():
    explained = set(rows())
    assert {name: where for name, where in named().items() if name not in explained} == {}


def test_what_is_explained_is_proved():
    """Each row that holds has a test that says so, and no row that does not hold has one."""
    gone = set(tables()[NOT_KEPT])
    assert set(rows()) - gone - proved() == set()
    assert gone & named().keys() == set()


def test_nothing_is_forgotten():
    """What the predecessors did is kept, or there is a reason why not."""
    expected = {f"{group}{number:02}" for group in WRITTEN_DOWN for number in WRITTEN_DOWN[group]}
    assert {name for name in rows() if name[0] in WRITTEN_DOWN} == expected


def test_the_page_refers_to_itself():
    """An id within the text of a row is that of another one."""
    assert set(ID.findall(read(PAGE).astext())) == set(rows())


def test_ids_are_in_order():
    """Those of one group stand together, but for those that were not kept; none is there twice."""
    groups = {}
    gone = tables()[NOT_KEPT]
    kept = [name for name in rows() if name not in gone]
    for name in kept:
        groups.setdefault(name[0], []).append(name)
    assert [name for group in groups.values() for name in group] == kept
    assert len(rows()) == len(set(rows()))
    assert list(dict.fromkeys(name[0] for name in gone)) == ["N", "T", "O", "H", "U"]
    for group in groups.values():
        assert group == sorted(set(group), key=order)


def test_guarantees_have_their_number():
    """That of the list in the README."""
    (section,) = [
        node
        for node in read(ROOT / "README.rst").findall(nodes.section)
        if node.children[0].astext() == "What is guaranteed, and what is not"
    ]
    (numbered,) = section.findall(nodes.enumerated_list)
    numbers = {
        int(number)
        for path in SOURCES
        for text in remarks(path)
        for found in GUARANTEE.findall(text)
        for number in found
        if number
    }
    assert numbers
    assert numbers <= set(range(1, len(numbered.children) + 1))
