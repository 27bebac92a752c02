"""The wire form: every encoded task comes back as it was, everything else is refused."""

from collections.abc import Mapping
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import FORMAT
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Origin
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import STATES
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from dataclasses import fields
from dataclasses import FrozenInstanceError
from hypothesis import given
from hypothesis import strategies as st
import pytest


text = st.text(max_size=20)
number = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53)
optional_number = st.none() | number

tasks = st.builds(
    Task,
    id=text,
    queue=text,
    url=text,
    uid=st.none() | text,
    method=text,
    headers=st.lists(st.tuples(text, text), max_size=3).map(tuple),
    payload=st.binary(max_size=50),
    user=st.none() | st.builds(Identity, folder=text, id=text),
    origin=st.none()
    | st.builds(
        Origin,
        server_url=text,
        script=text,
        root=st.none() | text,
        language=st.none() | text,
    ),
    created=number,
    due=optional_number,
    timeout=optional_number,
    max_attempts=st.integers(1, 1000),
    backoff=text,
    min_backoff=number,
    max_backoff=number,
    max_age=optional_number,
    key=st.none() | text,
    on_conflict=text,
    description=text,
    keep=optional_number,
)

scalars = st.none() | st.booleans() | number | text | st.binary(max_size=5)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(scalars, inner, max_size=3)
        | st.dictionaries(text, inner, max_size=3)
    ),
    max_leaves=8,
)

names = [field.name for field in fields(Task)]
VALID = Task(
    id="1",
    queue="default",
    url="/view",
    headers=(("X", "y"),),
    user=Identity("/acl_users", "jane"),
    origin=Origin("https://www.example.org", "/cms", "/Plone", "fi"),
).encode()


def is_plain(value):
    """Whether any serialiser can be expected to carry it."""
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or type(value) in (str, bytes, int, float)


def assert_refused_or_sound(record):
    """Nothing else than `TaskDecodeError`; and what is not refused can be encoded again."""
    try:
        task = Task.decode(record)
    except TaskDecodeError:
        return
    assert is_plain(task.encode())
    assert Task.decode(task.encode()) == task
    assert isinstance(task.user, Identity | None)
    assert isinstance(task.origin, Origin | None)
    for part in (task.user, task.origin):
        for field in fields(part) if part else ():
            expected = {"str": str, "str | None": str | None, "int": int}[field.type]
            assert isinstance(getattr(part, field.name), expected)
    for pair in task.headers:
        assert [type(item) for item in pair] == [str, str]


@given(tasks)
def test_a_task_survives_the_wire(task):
    """C74: with any content: bytes and text and absent values."""
    record = task.encode()
    assert is_plain(record)
    assert record["format"] == FORMAT
    assert Task.decode(record) == task


@given(tasks)
def test_sequences_may_come_back_as_another_type(task):
    """Some serialisers know no lists, others no tuples."""
    record = task.encode()
    record["headers"] = tuple(tuple(pair) for pair in record["headers"])
    assert Task.decode(record) == task


def test_absent_fields_have_their_defaults():
    """A record that was written before a field existed can still be read."""
    record = {"format": FORMAT, "id": "1", "queue": "q", "url": "/"}
    assert Task.decode(record) == Task(id="1", queue="q", url="/")


@given(anything)
def test_what_is_no_record_is_refused(value):
    """A value of any type is refused by the one exception that a storage expects."""
    with pytest.raises(TaskDecodeError):
        Task.decode(value)


@given(st.dictionaries(st.sampled_from(names), anything, max_size=5))
def test_a_broken_record_is_refused_in_one_way(changes):
    """Each field may hold anything; the storage must not die of it."""
    assert_refused_or_sound({**VALID, **changes})


@given(st.sampled_from(["user", "origin"]), anything, st.sampled_from([Identity, Origin]))
def test_a_broken_part_is_refused_in_one_way(name, value, kind):
    """Also within the identity and the origin."""
    for field in fields(kind):
        part = VALID[name]
        assert_refused_or_sound({**VALID, name: {**part, field.name: value}})


@pytest.mark.parametrize("name", ["format", "id", "queue", "url"])
def test_an_incomplete_record_is_refused(name):
    """What has no default must be there."""
    record = {key: value for key, value in VALID.items() if key != name}
    with pytest.raises(TaskDecodeError):
        Task.decode(record)


@pytest.mark.parametrize(
    "change",
    [
        {"format": FORMAT + 1},
        {"format": None},
        {"format": str(FORMAT)},
        {"format": [FORMAT]},
        {"unknown": 1},
        {1: 1},
        {None: None},
        {"id": 1},
        {"id": None},
        {"url": b"/view"},
        {"payload": "text"},
        {"payload": None},
        {"created": "0"},
        {"created": True},
        {"due": [1.0]},
        {"timeout": "1"},
        {"max_attempts": 1.5},
        {"max_attempts": True},
        {"max_attempts": None},
        {"key": 1},
        {"headers": None},
        {"headers": {"X": "y"}},
        {"headers": "X: y"},
        {"headers": ["ab"]},
        {"headers": [["X"]]},
        {"headers": [["X", "y", "z"]]},
        {"headers": [["X", 1]]},
        {"headers": [[b"X", "y"]]},
        {"headers": [None]},
        {"headers": [{"X": 1, "y": 2}]},
        {"user": "jane"},
        {"user": {}},
        {"user": {"id": "jane"}},
        {"user": {"folder": "/acl_users", "id": None}},
        {"user": {"folder": 1, "id": "jane"}},
        {"user": {"folder": "/acl_users", "id": "jane", "roles": "Manager"}},
        {"user": {1: "jane"}},
        {"origin": ["https://www.example.org"]},
        {"origin": {}},
        {"origin": {"server_url": None}},
        {"origin": {"server_url": "https://www.example.org", "script": None}},
        {"origin": {"server_url": "https://www.example.org", "root": b"/Plone"}},
        {"origin": {"server_url": "https://www.example.org", "language": 1}},
    ],
    ids=repr,
)
def test_a_malformed_record_is_refused(change):
    """Nothing that `encode` cannot have written is run."""
    with pytest.raises(TaskDecodeError):
        Task.decode({**VALID, **change})


def test_a_mapping_that_is_no_dict_is_read():
    """Such as what a driver makes of a row."""

    class Row(Mapping):
        def __getitem__(self, name):
            return VALID[name]

        def __iter__(self):
            return iter(VALID)

        def __len__(self):
            return len(VALID)

    assert Task.decode(Row()) == Task.decode(VALID)


def test_the_wire_form_shares_nothing_with_the_task():
    """Changing the record does not change the task."""
    task = Task.decode(VALID)
    record = task.encode()
    record["headers"][0][1] = "changed"
    record["user"]["id"] = "changed"
    assert task.encode() == VALID


def test_a_task_is_frozen():
    """Any process may hold it at any time."""
    task = Task.decode(VALID)
    with pytest.raises(FrozenInstanceError):
        task.url = "/other"
    assert hash(task) == hash(Task.decode(VALID))


@pytest.mark.parametrize(
    ("status", "reason", "ok"),
    [
        (200, "", True),
        (204, "", True),
        (299, "", True),
        (199, "", False),
        (302, "", True),
        (302, "redirected to /login", False),
        (400, "", False),
        (500, "", False),
        (None, "", False),
        (200, "ValueError", False),
    ],
)
def test_success_is_any_2xx_or_3xx_without_a_reason(status, reason, ok):
    """N35, N36, D39."""
    assert Outcome(status, reason).ok is ok


@pytest.mark.parametrize("state", STATES)
def test_a_status_knows_whether_it_is_final(state):
    """Three of the six states are."""
    status = TaskStatus(task=Task.decode(VALID), state=state)
    assert status.id == "1"
    assert status.finished is (state in FINISHED)
    assert status.result is None


def test_a_status_knows_when_a_state_was_entered():
    """The last time, if it was entered more than once."""
    changes = (("queued", 1.0), ("running", 2.0), ("queued", 3.0), ("running", 4.0))
    status = TaskStatus(task=Task.decode(VALID), state="running", changes=changes)
    assert status.time_of("queued") == 3.0
    assert status.time_of("running") == 4.0
    assert status.time_of("failed") is None
    assert status.elapsed is None


def test_the_result_is_the_last_response():
    """Of a finished task that was dispatched at least once."""
    attempts = (
        AttemptRecord(1, "c", 10.0, 1.5, 503, "status 503"),
        AttemptRecord(2, "c", 20.0, 2.5, 200),
    )
    status = TaskStatus(
        task=Task.decode(VALID),
        state="succeeded",
        changes=(("queued", 1.0), ("succeeded", 22.5)),
        attempts=attempts,
        status=200,
        headers=(("X", "y"),),
        body=b"done",
        truncated=True,
    )
    result = status.result
    assert (result.status, result.headers, result.body) == (200, (("X", "y"),), b"done")
    assert result.truncated
    assert (result.started, result.finished, result.elapsed) == (20.0, 22.5, 2.5)
    assert result.attempts == 2
    assert status.elapsed == 2.5
