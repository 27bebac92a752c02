"""Any request gets an answer that the description knows: no 500, nothing of another user.

What is sent is made from the description that this package ships, openapi.json, and of
nothing at all; on every storage, most of it on the local one.
"""

from collective.taskqueue import services
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.services import envelope
from collective.taskqueue.services import tasks
from collective.taskqueue.services import waiting
from collective.taskqueue.services.queues import TaskQueues
from collective.taskqueue.services.tasks import Tasks
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
from collective.taskqueue.testing.contract.base import BOUND
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
from services import PostgresServer
from services import RedisServer
from uuid import uuid4
from zope.component import getGlobalSiteManager
from zope.component import getUtility
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

HOOK = "https://example.org/hook"

#: In every part of a task of another user.
SECRET = "s3cr3t"

quick = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


#: How many examples of anything there are; a tenth of them for each operation of the description.
BACKENDS = {"local": 200, "redis": 80, "sqlite": 80, "postgresql": 80}


@pytest.fixture(scope="module")
def make_storage(tmp_path_factory):
    """Return the storage of a backend, which is one for all tests here."""
    made, servers = {}, []

    def make(backend):
        if backend == "redis":
            servers.append(server := RedisServer(tmp_path_factory.mktemp("redis")).start())
            settings = QueueSettings(type="redis", unix_socket_path=server.socket)
            return RedisStorage(settings)
        if backend == "postgresql":
            servers.append(server := PostgresServer().start())
            return SqlStorage(QueueSettings(type="sql", url=server.new_database()))
        path = tmp_path_factory.mktemp("sqlite") / "queue.sqlite"
        return SqlStorage(QueueSettings(type="sql", url=f"sqlite:///{path}"))

    def find(backend):
        if backend not in made:
            made[backend] = make(backend)
        return made[backend]

    yield find
    for storage in made.values():
        storage.close()
    for server in servers:
        server.stop() if isinstance(server, RedisServer) else server.remove()


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture
def queue(site, backend, make_storage):
    """The only queue, empty, in a storage of that kind."""
    original = getUtility(ITaskQueue, name="default")
    if backend == "local":
        yield original
        return
    storage = make_storage(backend)
    queue = TaskQueue(storage.settings, storage)
    registry = getGlobalSiteManager()
    registry.registerUtility(queue, ITaskQueue, name="default")
    yield queue
    registry.registerUtility(original, ITaskQueue, name="default")
    queue.resume()
    queue.reset()
    for state in FINISHED:
        queue.purge(state)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """A client that waits for a response waits for a moment, however long it asks to."""

    def wait(look, seconds):
        return waiting.wait_until_finished(look, min(seconds, 0.01))

    monkeypatch.setattr(tasks, "wait_until_finished", wait)


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
def populate(queue):
    """Make tasks of a client and of other people, that wait and that have ended; their ids."""

    def end(outcome):
        consumer = Consumer(queue.storage, lambda attempt: outcome, ServerSettings())
        assert consumer.step(BOUND) == 1
        consumer.stop()

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

    def make(client):
        done = put("/other/acl_users", "manager")
        end(Outcome(200, headers=(("X-Key", SECRET),), body=SECRET.encode()))
        ours = []
        for outcome in (Outcome(200, body=b"\xff\0"), Outcome(404, "gone \ud800")):
            ours.append(client.add(url="/plone/@@view"))
            end(outcome)
        ours.append(client.add(url="/plone/@@view", payload_base64="/wA=", method="POST"))
        ours.append(client.add(url="https://example.org/", delay=3600, headers={"Cookie": "a"}))
        waiting = put("/other/acl_users", "adder")
        return ours, [waiting, put("/plone/acl_users", "manager", due=1e12), done]

    return make


def operation(schema, label):
    found = {result.ok().label: result.ok() for result in schema.get_all_operations()}
    return found[label]


def make_good(case):
    """Let a task that is to be added go somewhere: by chance it hardly would."""
    for fields in (case.query, case.body):
        if isinstance(fields, dict):
            fields |= {"url": HOOK} if "url" in fields else {}
            fields |= {"queue": "default"} if "queue" in fields else {}


# Another thread of this process may roll dice at the same time, and is taken for the strategy.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("label", OPERATIONS)
@pytest.mark.parametrize("person", ["adder", "manager"])
def test_what_the_description_allows_and_what_it_does_not(
    schema, request, populate, queue, backend, label, person
):
    """The answer is one of those that are described, and none tells of other people's tasks."""
    client = request.getfixturevalue(person)
    ours, theirs = populate(client)
    ids = [*ours, *theirs]
    strategies = [
        operation(schema, label).as_strategy(generation_mode=mode) for mode in GenerationMode
    ]

    @settings(quick, max_examples=BACKENDS[backend] // 10)
    @given(case=st.one_of(*strategies), known=st.sampled_from([*ids, None]))
    def fuzz(case, known):
        if known:
            case.path_parameters = {
                name: known if name == "id" else "default" for name in case.path_parameters or {}
            }
            make_good(case)
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
        assert queue.status(theirs[2]).result.body == SECRET.encode()


TEXT = st.text(max_size=20) | st.sampled_from(["1e999", "nan", "-0", "\x00", "\u0661", "a\r\nb: c"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
#: What a list and a response are asked for.
FILTERS = sorted(
    parameter["name"]
    for path in ("/@tasks", "/@tasks/{id}/response")
    for parameter in DESCRIPTION["paths"][path]["get"]["parameters"]
)
KINDS = [
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "application/x-www-form-urlencoded; charset=utf-7",
    "multipart/form-data",
    "multipart/form-data; boundary=x",
    "text/xml",
]
FIELDS = st.sampled_from(sorted(DESCRIPTION["components"]["schemas"]["NewTask"]["properties"]))


def test_envelopes(adder, queue, backend):
    """Any JSON: either a task, or what is wrong with it and no task."""

    @settings(quick, max_examples=BACKENDS[backend])
    @given(fields=st.dictionaries(FIELDS | TEXT, JSON, max_size=4), good=st.booleans())
    def check(fields, good):
        if good:
            fields = {**fields, "url": HOOK}
        before = len(queue.tasks(size=1000))
        answer = adder("POST", "@tasks", body=json.dumps(fields).encode())
        assert answer.status in (201, 400), answer
        assert answer.status == 201 or "field" in answer.json["error"]
        assert len(queue.tasks(size=1000)) == before + (answer.status == 201)
        queue.reset()

    check()


def test_changes_of_many(adder, populate, queue, backend):
    """Any JSON: either a number of one's own tasks, or what is wrong."""
    ours, theirs = populate(adder)
    conditions = DESCRIPTION["components"]["schemas"]["Filter"]["properties"]
    before = {task_id: queue.status(task_id, brief=True) for task_id in theirs}

    @settings(quick, max_examples=BACKENDS[backend])
    @given(
        action=st.sampled_from(["retry", "cancel", "remove"]) | JSON,
        fields=st.dictionaries(st.sampled_from(sorted(conditions)) | TEXT, JSON, max_size=2),
        more=st.dictionaries(st.sampled_from(["limit", "cursor"]) | TEXT, JSON, max_size=1),
    )
    def check(action, fields, more):
        body = json.dumps({"action": action, "filter": fields, **more})
        answer = adder("POST", "@tasks/bulk", body=body.encode())
        assert answer.status in (200, 400), answer
        assert answer.status == 400 or answer.json["done"] <= len(ours)
        assert SECRET not in answer.body.decode()

    check()
    assert {task_id: queue.status(task_id, brief=True) for task_id in theirs} == before


def _quoted(text):
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def test_raw_bodies(adder, queue, backend):
    """Any bytes of any type, and any header."""

    @settings(quick, max_examples=BACKENDS[backend])
    @given(
        query=st.dictionaries(FIELDS | st.just("url"), TEXT, max_size=4),
        body=st.binary(max_size=50),
        name=st.from_regex(r"[A-Za-z-]{1,12}", fullmatch=True),
        value=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
        kind=st.sampled_from(KINDS),
    )
    def check(query, body, name, value, kind):
        fields = "&".join(f"{key}={_quoted(text)}" for key, text in query.items())
        headers = {f"Task-Passthrough-{name}": value, "Content-Type": kind}
        answer = adder("POST", f"@tasks?url=https://example.org/&{fields}", body=body, **headers)
        assert answer.status in (201, 400), answer
        if answer.status == 201:
            task = queue.status(answer.json["id"]).task
            assert task.payload == body
            assert not body or dict(task.headers)["Content-Type"] == kind
            assert not {"\r", "\n"} & set(str([*task.headers, task.url]))
        queue.reset()

    check()


def test_paths(manager, queue, backend):
    """Anything behind the name of a service."""

    @settings(quick, max_examples=BACKENDS[backend])
    @given(
        method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "PATCH"]),
        name=st.sampled_from(["@tasks", "@taskqueues"]),
        rest=st.lists(TEXT | st.sampled_from(["default", "response", "run", "tasks"]), max_size=3),
        query=st.dictionaries(st.sampled_from(FILTERS) | TEXT, TEXT, max_size=3),
        loose=TEXT,
    )
    def check(method, name, rest, query, loose):
        path = "/".join([name, *(_quoted(part) for part in rest)])
        fields = "&".join(f"{_quoted(key)}={_quoted(text)}" for key, text in query.items())
        answer = manager(method, f"{path}?{fields}&{_quoted(loose)}")
        assert answer.status in (200, 202, 204, 400, 403, 404, 405, 409), answer

    check()


def test_the_description_is_complete():
    """It has each path and method that there is, and no other."""
    found = set()
    for root, service in (("/@tasks", Tasks), ("/@taskqueues", TaskQueues)):
        for shape, methods in service.routes.items():
            parameter = "{id}" if service is Tasks else "{name}"
            path = "/".join([root, *(parameter if part == "*" else part for part in shape)])
            found |= {f"{method} {path}" for method in methods}
    assert found == set(OPERATIONS)


def test_the_fields_are_described():
    """Those of the envelope, and those of the query."""
    assert DESCRIPTION["components"]["schemas"]["NewTask"]["properties"].keys() == (
        envelope.IN_JSON.keys()
    )
    parameters = DESCRIPTION["paths"]["/@tasks"]["post"]["parameters"]
    assert {each["name"] for each in parameters} == set(envelope.IN_QUERY)
