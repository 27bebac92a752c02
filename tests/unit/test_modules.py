"""Imports that the rules of pyproject.toml cannot express: which names of a library are used."""

from pathlib import Path
import ast
import collective.taskqueue
import pytest
import sys


PACKAGE = "collective.taskqueue"
ROOT = Path(collective.taskqueue.__file__).parent


def parse(name):
    """Return the tree of a file of the package, by its path."""
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def imports(tree):
    """Yield the modules that a tree imports, and the names it takes from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def test_startup_imports_only_events_of_the_publisher():
    """Only publisher/ makes requests."""
    names = {name for name in imports(parse("startup.py")) if name.startswith("ZPublisher")}
    assert {name.rpartition(".")[0] for name in names} == {"ZPublisher.interfaces"}


def test_the_publisher_only_aborts():
    """ZPublisher commits, and the data manager joins transactions.

    The publisher reads `transaction.manager` to see whether there is anything to abort.
    """
    tree = parse("publisher/request.py")
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "transaction"
    }
    assert used == {"abort", "manager"}
    assert "transaction" in set(imports(tree))


@pytest.mark.parametrize("name", ["__init__.py", "storages/__init__.py"])
def test_packages_that_are_loaded_early_import_nothing(name):
    """zope.conf loads `collective.taskqueue`, and so does each module of it."""
    assert list(imports(parse(name))) == []


@pytest.mark.parametrize(
    ("name", "libraries"),
    [
        *[
            (f"config/{name}.py", libraries)
            for name, libraries in {
                "__init__": set(),
                "check": set(),
                "datatypes": set(),
                "environment": set(),
                "keys": {"ZConfig"},
                "precedence": set(),
                "product": set(),
                "refusal": {"ZConfig"},
                "report": set(),
                "sections": {"ZConfig"},
                "settings": set(),
                "where": set(),
            }.items()
        ],
        ("webhook/__init__.py", set()),
        ("webhook/guard.py", set()),
        ("webhook/signing.py", set()),
    ],
)
def test_what_zope_conf_loads_imports_nothing_of_zope(name, libraries):
    """These modules are loaded while zope.conf is parsed, before anything else is."""
    names = [imported.split(".") for imported in imports(parse(name))]
    assert all(name[2] in ("config", "errors") for name in names if name[0] == "collective")
    found = {name[0] for name in names} - {"collective"}
    assert found - sys.stdlib_module_names == libraries
