"""Whatever is sent: an answer that the description knows, no 500, and nothing of anybody else.

What is sent is made from the description that this package ships, openapi.json, and of
nothing at all.
"""

from collective.taskqueue import services
from collective.taskqueue.services.queues import TaskQueues
from collective.taskqueue.services.tasks import Tasks
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Task
from hypothesis import given
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st
from io import BytesIO
from pathlib import Path
from schemathesis import GenerationMode
from schemathesis import openapi
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance
from schemathesis.specs.openapi.checks import response_headers_conformance
from schemathesis.specs.openapi.checks import response_schema_conformance
from schemathesis.specs.openapi.checks import status_code_conformance
from uuid import uuid4
from ZPublisher.WSGIPublisher import publish_module
import json
import pytest


DESCRIPTION = json.loads((Path(services.__file__).parent / "openapi.json").read_text())
OPERATIONS = [
    f"{method.upper()} {path}"
    for path, item in DESCRIPTION["paths"].items()
    for method in item
    if method != "parameters"
]

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

#: In everything of a task that is somebody else's.
SECRET = "s3cr3t"

quick = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def application(environ, start_response):
    """The site, for a client of WSGI."""
    # Zope reads its input more than once.
    length = int(environ.get("CONTENT_LENGTH") or 0)
    environ["wsgi.input"] = BytesIO(environ["wsgi.input"].read(length))
    return publish_module(environ, start_response)


@pytest.fixture
def schema():
    schema = openapi.from_dict({**DESCRIPTION, "servers": [{"url": "/plone"}]})
    schema.app = application
    schema.location = "/openapi.json"
    return schema


@pytest.fixture
def theirs(queue):
    """A task of each kind that is somebody else's; their ids."""

    def put(folder, user, due=None):
        task = Task(
            id=str(uuid4()),
            queue=queue.name,
            url=f"/plone/{SECRET}",
            headers=(("X-Key", SECRET),),
            payload=SECRET.encode(),
            user=Identity(folder, user),
            description=SECRET,
            due=due,
            key=f"{SECRET} {user}",
        )
        queue.put(task)
        return task.id

    other_site = put("/other/acl_users", "adder")
    return [other_site, put("/plone/acl_users", "manager", due=1e12)]


def operation(schema, label):
    found = {result.ok().label: result.ok() for result in schema.get_all_operations()}
    return found[label]


# Another thread of this process may roll dice at the same time, and is taken for the strategy.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("label", OPERATIONS)
@pytest.mark.parametrize("person", ["adder", "manager"])
def test_what_the_description_allows_and_what_it_does_not(
    schema, request, theirs, queue, label, person
):
    """The answer is one of those that are described, and none tells of other people's tasks."""
    client = request.getfixturevalue(person)
    ids = [*theirs, client.add(url="/plone/@@view"), client.add(url="https://example.org/")]
    strategies = [
        operation(schema, label).as_strategy(generation_mode=mode) for mode in GenerationMode
    ]

    @settings(quick, max_examples=10)
    @given(case=st.one_of(*strategies), task_id=st.sampled_from(ids), known=st.booleans())
    def fuzz(case, task_id, known):
        if known and case.path_parameters:
            case.path_parameters = {
                name: task_id if name == "id" else "default" for name in case.path_parameters
            }
        case.headers = {
            **{k: v for k, v in (case.headers or {}).items() if k.lower() != "authorization"},
            "Accept": "application/json",
            "Authorization": client.credentials,
        }
        response = case.call()
        if response.status_code not in (405, 404):
            case.validate_response(response, checks=CHECKS)
        assert response.status_code < 500
        assert person == "manager" or SECRET not in response.text

    fuzz()
    if person == "adder":
        assert queue.status(theirs[0]).state == "queued"
        assert queue.status(theirs[1]).state == "scheduled"


TEXT = st.text(max_size=20) | st.sampled_from(["1e999", "nan", "-0", "\x00", "\u0661", "a\r\nb: c"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(sorted(DESCRIPTION["components"]["schemas"]["NewTask"]["properties"]))


@settings(quick, max_examples=100)
@given(fields=st.dictionaries(FIELDS | TEXT, JSON, max_size=4), good=st.booleans())
def check_envelopes(client, queue, fields, good):
    if good:
        fields = {**fields, "url": "https://example.org/hook"}
    before = len(queue.tasks(size=1000))
    answer = client("POST", "@tasks", body=json.dumps(fields).encode())
    assert answer.status in (201, 400), answer
    assert answer.status == 201 or "field" in answer.json["error"]
    assert len(queue.tasks(size=1000)) == before + (answer.status == 201)
    queue.reset()


def test_envelopes(adder, queue):
    """Any JSON: either a task, or what is wrong with it and no task."""
    check_envelopes(adder, queue)


@settings(quick, max_examples=100)
@given(
    query=st.dictionaries(FIELDS | st.just("url"), TEXT, max_size=4),
    body=st.binary(max_size=50),
    name=st.from_regex(r"[A-Za-z-]{1,12}", fullmatch=True),
    value=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
)
def check_raw(client, queue, query, body, name, value):
    fields = "&".join(f"{key}={_quoted(text)}" for key, text in query.items())
    headers = {f"Task-Passthrough-{name}": value, "Content-Type": "application/octet-stream"}
    answer = client("POST", f"@tasks?url=https://example.org/&{fields}", body=body, **headers)
    assert answer.status in (201, 400), answer
    if answer.status == 201:
        task = queue.status(answer.json["id"]).task
        assert task.payload == body
        assert not {"\r", "\n"} & set(str([*task.headers, task.url]))
    queue.reset()


def _quoted(text):
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def test_raw_bodies(adder, queue):
    """Any bytes, and any header."""
    check_raw(adder, queue)


@settings(quick, max_examples=100)
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "PATCH"]),
    name=st.sampled_from(["@tasks", "@taskqueues"]),
    rest=st.lists(TEXT | st.sampled_from(["default", "response", "run", "tasks"]), max_size=3),
    query=TEXT,
)
def check_paths(client, method, name, rest, query):
    path = "/".join([name, *(_quoted(part) for part in rest)])
    answer = client(method, f"{path}?{_quoted(query)}")
    assert answer.status in (200, 202, 204, 400, 403, 404, 405, 409), answer


def test_paths(manager, queue):
    """Anything behind the name of a service."""
    check_paths(manager)


def test_the_description_is_complete():
    """It has each path and method that there is, and no other."""
    found = set()
    for root, service in (("/@tasks", Tasks), ("/@taskqueues", TaskQueues)):
        for shape, methods in service.routes.items():
            parameter = "{id}" if service is Tasks else "{name}"
            path = "/".join([root, *(parameter if part == "*" else part for part in shape)])
            found |= {f"{method} {path}" for method in methods}
    assert found == set(OPERATIONS)
