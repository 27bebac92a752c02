"""The rooms of docs/explanation/design.rst: what they import of others, and how large one may be.

Which folder may import which is said in pyproject.toml, and `make lint` asks it.

Read from the source, not from what happens to be loaded: an import inside a function counts
like any other.
"""

from pathlib import Path
import ast
import collective.taskqueue
import pytest
import sys


PACKAGE = "collective.taskqueue"
ROOT = Path(collective.taskqueue.__file__).parent

MAX_FILE = 420
MAX_FUNCTION = 45

#: Rooms that know nothing of Zope, so that they can be used and tested without it.
PURE = {
    "config",
    "consumer",
    "enqueue.hosts",
    "enqueue.options",
    "enqueue.params",
    "errors",
    "interfaces",
    "publisher.accesslog",
    "publisher.address",
    "storages",
    "task",
    "webhook",
}

#: Subscribers are Zope's.
EVENTS = {"consumer.events"}

#: Libraries that are no Zope application code: they need no database and no component.
LIBRARIES = {"BTrees", "ZConfig", "msgpack", "psycopg", "redis", "sqlalchemy", "urllib3"}
LIBRARIES |= {"zope.interface"}

#: One for each kind of storage; what they share lies beside them.
FOLDERS = {"local", "redis", "sql"}

#: Packages whose names are public, wherever in them these live.
PUBLIC = {"testing", "testing.contract", "testing.model", *(f"storages.{name}" for name in FOLDERS)}

#: What only some rooms import, and why these.
RESERVED = {
    "transaction": {
        # The protocol.
        "enqueue.datamanager",
        # A connection of its own, to look for the witness.
        "enqueue.indoubt",
        # What a deleted user had waiting is cancelled once the deletion is committed.
        "enqueue.deleted_users",
        # Clean-up after a view that was torn apart; `transaction.abort` and nothing else.
        "publisher.request",
        # One transaction for each event that is told.
        "consumer.events",
        # Machinery of tests, not part of a running queue.
        "testing",
    },
    # In startup, the event that tells of the first request; in the services, those that come
    # before and after a request has found who answers it.
    "ZPublisher": {"publisher.request", "services.unread", "startup"},
    # What a database has for an object whose class is gone.
    "ZODB": {"enqueue.indoubt", "pasplugin.plugin"},
    "redis": {"storages.redis.connection", "storages.redis.script"},
    # The steps read what a former version has packed.
    "msgpack": {"storages.codec", "storages.redis.wire", "storages.sql.migrations"},
    "sqlalchemy": {"storages.sql"},
    "psycopg": {"storages.sql.dialects.driver"},
    "urllib3": {"webhook.client"},
    "pytest": {"testing.contract", "testing.model"},
    "hypothesis": {"testing.model"},
    "plone.testing": {"testing.layers"},
    "plone.app.testing": {"testing.layers"},
}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path.read_text() for path in sorted(ROOT.rglob("*.py"))}
ROOMS = sorted(SOURCES)


def imports(source):
    """The modules that a source imports, and the names it takes from them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a name comes from"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def is_within(name, package):
    return name == package or name.startswith(f"{package}.")


def rooms_of(name):
    """The rooms that are loaded for an import of the name: the module and its packages."""
    inside = name.removeprefix(PACKAGE).strip(".").split(".")
    paths = [".".join(inside[:length]) for length in range(len(inside) + 1)]
    return {path for path in paths if path in SOURCES}


def reachable(room):
    """All rooms that are loaded if this one is."""
    found, todo = set(), {room, *rooms_of(f"{PACKAGE}.{room}")}
    while todo:
        current = todo.pop()
        found.add(current)
        for name in imports(SOURCES[current]):
            if is_within(name, PACKAGE):
                todo |= rooms_of(name) - found
    return found


def foreign(room):
    """What a room imports that is neither ours nor Python's."""
    return {
        name
        for name in imports(SOURCES[room])
        if not is_within(name, PACKAGE) and name.split(".")[0] not in sys.stdlib_module_names
    }


def docstring_length(node):
    first = node.body[0] if node.body else None
    if ast.get_docstring(node, clean=False) is None:
        return 0
    return first.end_lineno - first.lineno + 1


pure = [
    room for room in ROOMS if any(is_within(room, name) for name in PURE) and room not in EVENTS
]


def test_all_rooms_are_found():
    """Else nothing here would prove anything."""
    assert set(ROOMS) >= PURE
    assert {"", "startup", "storages.local", "storages.redis"} <= set(ROOMS)
    assert "transaction" in set(imports(SOURCES["enqueue.datamanager"]))
    assert any(is_within(name, "redis") for name in foreign("storages.redis.connection"))
    assert reachable("consumer.consumer") >= {"", "consumer.heartbeat", "task"}


@pytest.mark.parametrize("room", pure)
def test_pure_rooms_import_no_zope_application_code(room):
    """Neither directly nor through another room."""
    for other in reachable(room):
        for name in foreign(other):
            assert any(is_within(name, library) for library in LIBRARIES), f"{other}: {name}"


@pytest.mark.parametrize("library", RESERVED)
def test_what_only_some_rooms_may_import(library):
    """A new name here is a decision; a name that is not needed any more is removed."""
    users = {room for room in ROOMS for name in imports(SOURCES[room]) if is_within(name, library)}
    allowed = RESERVED[library]
    assert {room for room in users if not any(is_within(room, name) for name in allowed)} == set()
    existing = {name for name in allowed if name in SOURCES}
    assert {name for name in existing if not any(is_within(room, name) for room in users)} == set()


def test_startup_knows_of_the_publisher_only_its_events():
    """It must not be a second place where requests are made."""
    names = {name for name in imports(SOURCES["startup"]) if is_within(name, "ZPublisher")}
    assert {name.rpartition(".")[0] for name in names} == {"ZPublisher.interfaces"}


def test_the_publisher_only_ever_aborts():
    """Committing is ZPublisher's, joining is the data manager's.

    `manager` is where it looks whether there is anything to abort.
    """
    tree = ast.parse(SOURCES["publisher.request"])
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "transaction"
    }
    assert used == {"abort", "manager"}
    assert set(imports(SOURCES["publisher.request"])) >= {"transaction"}


def test_the_package_itself_imports_nothing():
    """It is imported while zope.conf is parsed, and with every room."""
    assert list(imports(SOURCES[""])) == []
    assert list(imports(SOURCES["storages"])) == []


def test_config_imports_zconfig_and_python_alone():
    """It is imported while zope.conf is parsed, before anything else is."""
    assert {name.split(".")[0] for name in foreign("config")} == {"ZConfig"}
    assert reachable("config") == {"", "config"}
    # So are these, for the datatypes that they know.
    for room in ("webhook.guard", "webhook.signing"):
        assert reachable(room) == {"", "webhook", room}
        assert foreign(room) == set()


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_from_where_a_thing_lives(room):
    """Every name comes from the room that defines it, none is passed on."""
    for name in imports(SOURCES[room]):
        if not is_within(name, PACKAGE) or room in PUBLIC:
            continue
        owner = max(rooms_of(name), key=len)
        rest = name.removeprefix(PACKAGE).strip(".").removeprefix(owner).strip(".")
        if rest and owner not in PUBLIC:
            assert rest in defined(SOURCES[owner]), f"{room}: {rest} does not live in {owner}"


def defined(source):
    """The names that a module gives to something of its own."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_small(room):
    """A reader must be able to read one at a sitting: imports and what it is for aside."""
    tree = ast.parse(SOURCES[room])
    lines = len(SOURCES[room].splitlines()) - docstring_length(tree)
    lines -= sum(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(tree))
    assert lines < MAX_FILE
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1 - docstring_length(node)
            assert length < MAX_FUNCTION, f"{node.name} has {length} lines"


def test_what_is_around_is_small_as_well():
    """Tests, benchmarks and examples are read, too."""
    folders = (Path(__file__).parents[2] / name for name in ("tests", "benchmarks", "examples"))
    lengths = {
        path.name: len(path.read_text().splitlines())
        for folder in folders
        for path in folder.rglob("*.py")
    }
    assert len(lengths) > 100
    assert {name: lines for name, lines in lengths.items() if lines >= MAX_FILE} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_say_what_they_are_for(room):
    """In their first lines; everything public in them does so, too."""
    tree = ast.parse(SOURCES[room])
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} does not say what it is for"
