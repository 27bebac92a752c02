"""Every id that a test proves something by is explained in docs/behaviours.rst."""

from docutils import nodes
from docutils.core import publish_doctree
from pathlib import Path
import ast
import io
import re
import tokenize


ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "behaviours.rst"
SOURCES = [
    path
    for folder in ("benchmarks", "examples", "src", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

ID = re.compile(r"\b[CDHNOTU]\d{2,3}[a-z]?\b")
GUARANTEE = re.compile(r"\bguarantees? (\d)(?: (?:to|and) (\d))?", re.IGNORECASE)

#: Groups of which every row has its test. The others tell users of four older systems what
#: became of theirs; what is merely as in another row has no test of its own.
PROVED = ("C", "D")


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
    bodies = read(PAGE).findall(nodes.tbody)
    return [row.children[0].astext() for body in bodies for row in body.findall(nodes.row)]


def order(name):
    """Return what an id is sorted by within its group."""
    letter, number, suffix = re.fullmatch(r"(.)(\d+)(.?)", name).groups()
    return letter, int(number), suffix


def test_what_is_named_is_explained():
    explained = set(rows())
    assert {name: where for name, where in named().items() if name not in explained} == {}


def test_what_is_explained_is_proved():
    assert {name for name in rows() if name.startswith(PROVED)} - named().keys() == set()


def test_the_page_refers_to_itself():
    """An id within the text of a row is that of another one."""
    assert set(ID.findall(read(PAGE).astext())) == set(rows())


def test_ids_are_in_order():
    """Those of one group stand together; none is there twice."""
    groups = {}
    for name in rows():
        groups.setdefault(name[0], []).append(name)
    assert [name for group in groups.values() for name in group] == rows()
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
