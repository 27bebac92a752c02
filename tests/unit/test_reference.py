"""The pages of reference say the same as the code."""

from collective.taskqueue import interfaces
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config.keys import SECTION_TYPES
from collective.taskqueue.consumer.batcher import PATIENCE
from collective.taskqueue.consumer.batcher import WINDOW
from collective.taskqueue.enqueue.fields import FIELDS
from collective.taskqueue.enqueue.fields import STRUCTURED
from collective.taskqueue.enqueue.options import OPTIONS
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.task import field_types
from collective.taskqueue.task import Task
from collective.taskqueue.worker.exits import Exit
from collective.taskqueue.worker.exits import MEANINGS
from collective.taskqueue.worker.options import OPTIONS as WORKER_OPTIONS
from collective.taskqueue.worker.signals import EFFECTS
from collective.taskqueue.worker.signals import names_of
from dataclasses import fields
from pathlib import Path
from textwrap import wrap
from xml.etree import ElementTree
from zope.interface.interface import InterfaceClass
import collective.taskqueue
import json
import pytest
import re


ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "reference"
PACKAGE = Path(collective.taskqueue.__path__[0])
COMPONENT = PACKAGE / "component.xml"
OPENAPI = json.loads((PACKAGE / "services" / "openapi.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("section", SECTION_TYPES)
def test_configuration_table(section):
    """Every key with its default, described in the words of component.xml."""
    must_show("configuration.rst", section, configuration_table(section))


def must_show(name, label, table):
    """Fail unless the page shows the table below the comment with this label."""
    text = (DOCS / name).read_text(encoding="utf-8")
    assert f".. {label}\n\n{table}\n\n" in f"{text}\n", f"{name} must say:\n\n{table}"


def list_table(*rows):
    """Return a table of reStructuredText; the first row is its header."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        for number, cell in enumerate(row):
            lead = "   * - " if number == 0 else "     - "
            lines += wrap(cell, 100, initial_indent=lead, subsequent_indent="       ") or [
                lead.rstrip()
            ]
    return "\n".join(lines)


def configuration_table(section):
    """Return the table of a section type, as the page has to show it."""
    (found,) = (
        item
        for item in ElementTree.parse(COMPONENT).iter("sectiontype")
        if item.get("name") == section
    )
    rows = [
        (
            f"``{key.get('name')}``",
            f"``{key.get('default')}``" if key.get("default") else "",
            " ".join(key.findtext("description").split()),
        )
        for key in found.iter("key")
    ]
    return list_table(("Key", "Default", "Meaning"), *rows)


def test_options():
    """Every option of `add()`, with its type, its limits and its default."""
    rows = [
        (f"``{name}``", python_kind(field), default(field), field.description)
        for name, field in OPTIONS.items()
    ]
    table = list_table(("Option", "Type", "Default", "Meaning"), *rows)
    must_show("options.rst", "options", table)


#: By the kind of a field, its type in JSON.
JSON_TYPES = {
    "seconds": "number",
    "integer": "integer",
    "flag": "boolean",
    "params": "object",
    "headers": "object",
    "body": ["string", "object", "array"],
}


def schema(field):
    """Return the JSON schema of a field, by the table of fields."""
    found = {"type": JSON_TYPES.get(field.kind, "string")}
    if field.kind in ("seconds", "integer"):
        found["exclusiveMinimum" if field.positive else "minimum"] = field.lowest
        found["maximum"] = int(field.highest)
    if field.kind in ("text", "key") and field.longest:
        # An empty url is none, and so is an empty key.
        found |= {"minLength": 1, "maxLength": field.longest}
    if field.choices:
        found["enum"] = list(field.choices)
    if field.kind == "moment":
        found["format"] = "date-time"
    if field.kind == "base64":
        found["contentEncoding"] = "base64"
    return found


def python_kind(field):
    """Return the type of an option and its limits, in one line."""
    return "datetime" if field.kind == "moment" else kind(schema(field))


def default(field):
    """Return the default of an option, as the table of options shows it."""
    shown = "" if field.default in (None, "") else f"``{str(field.default).removesuffix('.0')}``"
    if field.hook_default in (None, field.default):
        return shown
    return f"{shown or 'none'}; ``{field.hook_default:g}`` for a web hook"


def test_fields_of_openapi():
    """The schemas of openapi.json say the same as the table of fields."""
    new_task = OPENAPI["components"]["schemas"]["NewTask"]
    assert new_task["required"] == ["url"]
    assert list(new_task["properties"]) == [name for name, each in FIELDS.items() if each.client]
    for name, found in new_task["properties"].items():
        # What params and headers may have as values stands in openapi.json alone.
        shown = {key: value for key, value in found.items() if key != "additionalProperties"}
        expected = schema(FIELDS[name])
        if name != "url":
            expected = or_null(expected)
        description = " ".join(filter(None, (FIELDS[name].description, FIELDS[name].note)))
        assert shown == {**expected, "description": description}


def or_null(expected):
    """Return a schema that takes null, too."""
    types = expected["type"] if isinstance(expected["type"], list) else [expected["type"]]
    choices = {"enum": [*expected["enum"], None]} if "enum" in expected else {}
    return {**expected, "type": [*types, "null"], **choices}


def test_parameters_of_openapi():
    """The query of a request that adds a task has the same types and limits."""
    parameters = OPENAPI["paths"]["/@tasks"]["post"]["parameters"]
    fields = [each for each in FIELDS.values() if each.client and each.kind not in STRUCTURED]
    assert [(each["name"], each["schema"]) for each in parameters] == [
        (field.name, schema(field)) for field in fields
    ]


def test_the_table_of_fields_fits_the_code():
    """Its defaults are those of a task and of a queue, and its types those of the wire form."""
    stored = {each.name: each.default for each in fields(Task)}
    queue = QueueSettings()
    types = {"seconds": {float, int}, "integer": {int}, "flag": {bool}}
    for name, field in OPTIONS.items():
        if name in stored:
            assert field.default == stored[name]
            assert field_types(Task)[name] - {type(None)} == types.get(field.kind, {str})
        if hasattr(queue, name):
            assert getattr(queue, name) in (field.default, None)
    assert OPTIONS.keys() - stored.keys() == {"delay", "countdown", "eta"}


def test_events():
    """Every event, described in the words of its docstring."""
    rows = [(f"``{item.__name__}``", item.__doc__.strip()) for item in declared() if is_event(item)]
    must_show("events.rst", "events", list_table(("Event", "When it is published"), *rows))


def test_interfaces():
    """Every interface has its section, but for the events: these have a row each."""
    text = "".join((DOCS / name).read_text("utf-8") for name in ("interfaces.rst", "events.rst"))
    shown = re.findall(r"^\.\. autointerface:: (?:[\w.]+\.)?(\w+)$", text, re.MULTILINE)
    assert sorted(shown) == sorted(item.__name__ for item in declared() if not is_event(item))


def declared():
    """Return the interfaces of the module `interfaces`, in its order."""
    items = [item for item in vars(interfaces).values() if isinstance(item, InterfaceClass)]
    return [item for item in items if item.__module__ == interfaces.__name__]


def is_event(item):
    """Return whether an interface is that of one kind of event."""
    return interfaces.ITaskEvent in item.__bases__


def test_requests():
    """Every request that openapi.json describes, in its words."""
    rows = [
        (f"``{request}``", operation["summary"], ", ".join(operation["responses"]))
        for request, operation in operations()
    ]
    table = list_table(("Request", "What it does", "Statuses of the response"), *rows)
    must_show("http.rst", "requests", table)


def operations():
    """Return pairs of a request, such as `GET /@tasks`, and its description."""
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in OPENAPI["paths"].items()
        for method, operation in methods.items()
        if method != "parameters"
    ]


def test_statuses():
    """Every status of an error, in the words of openapi.json."""
    named = {
        status: response["$ref"].rpartition("/")[2]
        for _, operation in operations()
        for status, response in operation["responses"].items()
        if "$ref" in response
    }
    rows = [
        (status, f"``{name}``", OPENAPI["components"]["responses"][name]["description"])
        for status, name in sorted(named.items())
    ]
    must_show("http.rst", "statuses", list_table(("Status", "Type", "Meaning"), *rows))


def test_fields():
    """Every field of a new task, with its type and its limits."""
    schema = OPENAPI["components"]["schemas"]["NewTask"]
    rows = [
        (f"``{name}``", kind(field), field.get("description", ""))
        for name, field in schema["properties"].items()
    ]
    must_show("http.rst", "fields", list_table(("Field", "Type", "Meaning"), *rows))


def kind(field):
    """Return the type of a field of JSON, and its limits, in one line."""
    types = [field["type"]] if isinstance(field["type"], str) else field["type"]
    words = [" or ".join(types)]
    if "enum" in field:
        words = [", ".join(f"``{value}``" for value in field["enum"] if value is not None)]
    limits = {
        "minimum": "at least {}",
        "exclusiveMinimum": "more than {}",
        "maximum": "at most {}",
        "maxLength": "at most {} characters",
        "format": "{}",
        "contentEncoding": "{}",
    }
    words += [text.format(field[name]) for name, text in limits.items() if name in field]
    return ", ".join(words)


def test_worker_options():
    """Every option of a worker, in the words of its help."""
    rows = [
        (
            f"``{name}``",
            f"``{option.metavar}``" if option.metavar else "",
            option.help,
        )
        for name, option in WORKER_OPTIONS.items()
    ]
    table = list_table(("Option", "Value", "Meaning"), *rows)
    must_show("worker.rst", "worker-options", table)


def test_worker_signals():
    """Every signal, in the words of the help."""
    rows = [(names_of(command), effect) for command, effect in EFFECTS.items()]
    must_show("worker.rst", "worker-signals", list_table(("Signal", "Effect"), *rows))


def test_worker_exits():
    """Every exit code, in the words of the help."""
    rows = [(f"``{code.value}``", MEANINGS[code]) for code in Exit]
    must_show("worker.rst", "worker-exits", list_table(("Code", "Meaning"), *rows))


def test_the_limits_of_batching(tmp_path):
    """README and the page of the design have the numbers of the code, in milliseconds."""
    redis = RedisStorage(QueueSettings(type="redis")).delay
    urls = f"sqlite:///{tmp_path}/queue.db", "postgresql://localhost/queue"
    sqlite, postgresql = [SqlStorage(QueueSettings(type="sql", url=url)).delay for url in urls]
    # SQLite computes in the process: there a completion waits for twice the delay.
    assert 2 * sqlite == postgresql
    with_redis, with_sql = f"{redis * 1000:g} ms with Redis", f"{postgresql * 1000:g} ms with a SQL"
    assert f"within {with_redis}, {with_sql}" in words("README.rst")
    design = words("docs/explanation/design.rst")
    assert f"at most {with_redis} and {with_sql}" in design
    ahead = [f"{max(WINDOW, 1.5 * delay) * 1000:g} ms" for delay in (redis, sqlite, postgresql)]
    assert "{} ({} with SQLite, {} with PostgreSQL)".format(*ahead) in design
    assert f"begins within {PATIENCE * 1000:g} ms" in design


def words(path):
    """Return the text of a page with one blank between two words."""
    return " ".join((ROOT / path).read_text(encoding="utf-8").split())
