"""What only the Redis storage promises: answers that are lost, and connections."""

from collections import Counter
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import ACTIONS
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import complete_and_reserve
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import finish_and_take
from collective.taskqueue.testing.contract.base import ManualClock
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from dataclasses import replace
from hashlib import sha1
from pathlib import Path
from services import RedisServer
import msgpack
import pytest
import redis
import time


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = RedisServer(Path(tmp_path_factory.mktemp("redis"))).start()
    yield server
    server.stop()


@pytest.fixture
def storage(server):
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.flushall()
    storage = RedisStorage(QueueSettings(type="redis", unix_socket_path=server.socket))
    yield storage
    storage.close()


def lose_answers(storage, monkeypatch, number, error):
    """Let the server carry out the next calls, and lose its answers."""
    run, lost = storage._server.run, [error] * number

    def run_in_vain(*args):
        answer = run(*args)
        if lost:
            raise lost.pop()
        return answer

    monkeypatch.setattr(storage._server, "run", run_in_vain)


def test_an_answer_that_was_lost_is_asked_for_again(storage, monkeypatch):
    """Of the end of a task and the beginning of the next: neither happens twice."""
    add(storage, *(new_task() for _ in range(3)))
    lease = take(storage)
    lose_answers(storage, monkeypatch, 1, redis.ConnectionError("gone"))
    state, (following,) = finish_and_take(storage, lease, completed(lease))
    assert state == SUCCEEDED
    assert len(storage.admin.get(lease.task.id).attempts) == 1
    assert storage.admin.counts()[RUNNING] == 1
    assert storage.report(following) is False


@pytest.mark.parametrize("error", [redis.ConnectionError("gone"), redis.TimeoutError("late")])
def test_a_call_that_failed_may_be_repeated(storage, monkeypatch, error):
    """By the same thread, as the consumer does: it gets what it has reserved."""
    add(storage, *(new_task() for _ in range(3)))
    lease = take(storage)
    lose_answers(storage, monkeypatch, 2, error)
    for _ in range(1 if isinstance(error, redis.ConnectionError) else 2):
        with pytest.raises(StorageUnavailable):
            finish_and_take(storage, lease, completed(lease))
    state, (following,) = finish_and_take(storage, lease, completed(lease))
    assert (state, following.attempt) == (SUCCEEDED, 1)
    assert storage.admin.counts()[RUNNING] == 1


@pytest.mark.parametrize("alone", [False, True])
def test_many_ends_that_failed_may_be_repeated(storage, monkeypatch, alone):
    """Together, which brings what had been reserved with them, or each by itself."""
    tasks = add(storage, *(new_task() for _ in range(5)))
    leases = storage.reserve("consumer", limit=3, timeout=0)
    ends = [(lease, completed(lease)) for lease in leases]
    lose_answers(storage, monkeypatch, 1, redis.TimeoutError("late"))
    with pytest.raises(StorageUnavailable):
        complete_and_reserve(storage, ends, limit=2)
    assert storage.admin.counts()[SUCCEEDED] == 3
    if alone:
        assert [storage.complete(*end) for end in ends] == [SUCCEEDED] * 3
    else:
        states, brought = complete_and_reserve(storage, ends, limit=2)
        assert states == [SUCCEEDED] * 3
        assert [lease.task for lease in brought] == list(tasks[3:])
        assert [storage.complete(lease, completed(lease)) for lease in brought] == [SUCCEEDED] * 2
    assert all(len(storage.admin.get(lease.task.id).attempts) == 1 for lease in leases)


def test_a_repeated_call_returns_what_it_had_done_not_what_followed(storage, monkeypatch):
    """An attempt that failed is due again at once: the same call completes it and reserves it."""
    add(storage, new_task())
    lease = take(storage)
    ends = [(lease, completed(lease, SCHEDULED, due=0.0))]
    lose_answers(storage, monkeypatch, 1, redis.TimeoutError("late"))
    with pytest.raises(StorageUnavailable):
        complete_and_reserve(storage, ends, limit=1)
    assert storage.admin.get(lease.task.id).state == RUNNING
    states, (following,) = complete_and_reserve(storage, ends, limit=1)
    assert (states, following.attempt) == ([SCHEDULED], 2)
    assert len(storage.admin.get(lease.task.id).attempts) == 1


def test_another_call_does_not_get_the_result_of_an_unanswered_one(storage, monkeypatch):
    """Neither in another thread nor about another lease; nor does a call that was answered."""
    add(storage, new_task(), new_task())
    first, second = storage.reserve("consumer", limit=2, timeout=0)
    lose_answers(storage, monkeypatch, 1, redis.TimeoutError("late"))
    with pytest.raises(StorageUnavailable):
        storage.complete(first, completed(first))
    assert aside(lambda: storage.complete(first, completed(first))).result(BOUND) is None
    assert storage.complete(first, completed(first)) == SUCCEEDED
    assert storage.complete(first, completed(first)) is None
    assert storage.complete(second, completed(second)) == SUCCEEDED
    assert storage.complete(second, completed(second)) is None


def test_a_lost_lease_gets_no_result_of_the_valid_one(storage, monkeypatch):
    """Both of one task, in one call; nor when the call is repeated."""
    add(storage, new_task())
    lease = take(storage)
    ends = [(one, completed(one)) for one in (lease, replace(lease, token="lost"))]
    lose_answers(storage, monkeypatch, 1, redis.ConnectionError("gone"))
    assert complete_and_reserve(storage, ends, limit=1) == ([SUCCEEDED, None], [])


def test_released_tasks_are_named_again(storage, monkeypatch):
    tasks = add(storage, new_task(), new_task())
    leases = storage.reserve("consumer", limit=2, timeout=0)
    lose_answers(storage, monkeypatch, 1, redis.ConnectionError("gone"))
    assert storage.release(leases) == [task.id for task in tasks]
    assert [lease.task for lease in storage.reserve("consumer", 2, timeout=0)] == list(tasks)
    assert storage.release(leases) == []


@pytest.mark.parametrize("state", [QUEUED, SCHEDULED, RUNNING])
def test_a_cancellation_whose_answer_was_lost(storage, monkeypatch, state):
    (task,) = add(storage, new_task(due=time.time() + 1000 if state == SCHEDULED else None))
    if state == RUNNING:
        take(storage)
    lose_answers(storage, monkeypatch, 1, redis.ConnectionError("gone"))
    expected = RUNNING if state == RUNNING else CANCELLED
    assert storage.admin.cancel(task.id) == expected
    assert storage.admin.get(task.id).state == expected
    if state != RUNNING:
        with pytest.raises(ForbiddenTransition):
            storage.admin.cancel(task.id)


def test_other_changes_of_an_admin_whose_answer_was_lost(storage, monkeypatch):
    """Each happens once, and is not refused because it has happened."""
    (task,) = add(storage, new_task(due=time.time() + 1000))
    error = redis.ConnectionError("gone")
    lose_answers(storage, monkeypatch, 1, error)
    storage.admin.run_now(task.id)
    lease = take(storage)
    storage.complete(lease, completed(lease, FAILED, body=b"body"))
    lose_answers(storage, monkeypatch, 1, error)
    assert storage.admin.forget_response(task.id) is True
    assert storage.admin.forget_response(task.id) is False
    lose_answers(storage, monkeypatch, 1, error)
    storage.admin.retry(task.id)
    assert storage.admin.counts()[QUEUED] == 1
    with pytest.raises(ForbiddenTransition):
        storage.admin.retry(task.id)


@pytest.mark.parametrize("action", ACTIONS)
def test_the_answer_to_many_changes_is_lost(storage, monkeypatch, action):
    """They are made once, and those that were made are told; others stay as they are."""
    ended = add(storage, *(new_task() for _ in range(3)))
    for _ in ended:
        lease = take(storage)
        storage.complete(lease, completed(lease, FAILED))
    waiting = add(storage, *(new_task() for _ in range(3)))
    names = [task.id for task in (*ended, *waiting)]
    lose_answers(storage, monkeypatch, 1, redis.ConnectionError("gone"))
    changed = storage.admin.change(action, names, (FAILED, QUEUED))
    assert list(changed) == (names[3:] if action == "cancel" else names[:3])
    assert storage.admin.change(action, names, (FAILED, QUEUED)) == {}
    assert len(storage.admin.tasks()) == (3 if action == "remove" else 6)


def test_an_admin_between_an_unanswered_call_and_its_repetition(storage, monkeypatch):
    """The task remembers what both calls have done to it."""
    add(storage, new_task())
    lease = take(storage)
    later = completed(lease, SCHEDULED, due=time.time() + 1000)
    lose_answers(storage, monkeypatch, 1, redis.TimeoutError("late"))
    with pytest.raises(StorageUnavailable):
        storage.complete(lease, later)
    storage.admin.cancel(lease.task.id)
    assert storage.complete(lease, later) == SCHEDULED
    assert storage.admin.get(lease.task.id).state == CANCELLED


def test_what_is_asked_for_again_late_has_a_lease_anew(server, monkeypatch):
    """The lease was about to expire: its holder did not know of it and could not renew it."""
    clock = ManualClock()
    settings = QueueSettings(type="redis", unix_socket_path=server.socket, queue="late")
    storage = RedisStorage(settings, clock)
    add(storage, new_task(), new_task())
    lose_answers(storage, monkeypatch, 1, redis.TimeoutError("late"))
    with pytest.raises(StorageUnavailable):
        take(storage, lease=30.0)
    clock.advance(25)
    lease = take(storage, lease=30.0)
    assert lease.attempt == 1
    assert lease.expires == pytest.approx(clock() + 30, abs=1.0)
    clock.advance(20)
    assert storage.admin.recover() == []
    lose_answers(storage, monkeypatch, 1, redis.TimeoutError("late"))
    ends = [(lease, completed(lease))]
    with pytest.raises(StorageUnavailable):
        storage.complete_and_reserve(ends, "consumer", 1, 30.0)
    clock.advance(25)
    _, (lease,) = storage.complete_and_reserve(ends, "consumer", 1, 30.0)
    assert lease.expires == pytest.approx(clock() + 30, abs=1.0)
    storage.close()


def test_one_that_cannot_be_read_harms_no_other(storage, server, monkeypatch):
    """Not even if the server goes away before it is told of: all is asked for again."""
    first, broken, good = add(storage, new_task(), new_task(), new_task())
    lease = take(storage)
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.hset(f"collective.taskqueue.default:task:{broken.id}", "body", b"\xc1")
    ends = [(lease, completed(lease))]
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_fail_unreadable", _gone)
        with pytest.raises(StorageUnavailable):
            complete_and_reserve(storage, ends, limit=2)
    states, (lease,) = complete_and_reserve(storage, ends, limit=2)
    assert (states, lease.task.id) == ([SUCCEEDED], good.id)
    assert storage.admin.get(broken.id).state == FAILED
    assert storage.admin.get(first.id).state == SUCCEEDED


def _gone(*args):
    raise StorageUnavailable("gone")


def test_what_interrupts_a_call_does_not_disturb_the_next(storage, monkeypatch):
    """A task's timeout may hit the moment between question and answer."""
    add(storage, new_task())
    connection = storage._server._mine.connection
    read = connection.read_response

    def interrupted():
        monkeypatch.setattr(connection, "read_response", read)
        raise KeyboardInterrupt

    monkeypatch.setattr(connection, "read_response", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.admin.counts()
    assert storage.admin.get(take(storage).task.id).state == RUNNING


def test_a_thread_that_ends_takes_its_connection_along(storage, server):
    """A server of many short threads is not left with as many connections."""

    def connections():
        with redis.Redis(unix_socket_path=server.socket) as client:
            return Counter(item["name"] for item in client.client_list())["collective.taskqueue"]

    storage.admin.counts()["queued"]
    before = connections()
    for _ in range(20):
        aside(lambda: storage.admin.counts()["queued"]).result(BOUND)
    deadline = time.monotonic() + BOUND
    # The last thread may not have ended yet.
    while connections() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert connections() <= before


@pytest.mark.parametrize(("lease", "longest"), [(30.0, 15.0), (20.0, 10.0), (1.0, 5.0)])
def test_who_is_idle_looks_again_within_what_is_guaranteed(storage, monkeypatch, lease, longest):
    """Within half a lease, or within five seconds if leases are shorter than ten.

    A task may have been reserved elsewhere when all others slept already, and be lost since.
    """
    waits = []
    monkeypatch.setattr(storage, "_wait", lambda seconds: waits.append(seconds) or storage.wake())
    assert storage.reserve("idle", lease=lease) == []
    assert waits == [pytest.approx(longest, abs=1)]


def test_a_server_that_was_flushed_is_said_to_be(storage, server, caplog):
    """One line; what is queued afterwards runs, what ends then is dropped."""
    add(storage, new_task(), new_task())
    lease = take(storage)
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.flushall()
    add(storage, *(new_task() for _ in range(3)))
    assert storage.complete(lease, completed(lease)) is None
    state, (lease,) = finish_and_take(storage, lease, completed(lease))
    assert state is None
    take(storage)
    lines = [line for line in caplog.messages if "FLUSHALL" in line]
    assert len(lines) == 1
    assert lines[0].startswith("queue default: the server has lost all data")


def test_a_server_that_has_forgotten_the_script_gets_it_again(storage, server):
    add(storage, new_task())
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.script_flush()
    assert storage.admin.counts()["queued"] == 1


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("history", ["RPUSH", "P:history:ID", "?"]),
        ("changes", ["HSET", "P:task:ID", "changes", b"failed \xff;"]),
        ("progress", ["HSET", "P:task:ID", "progress", "?"]),
        ("response", ["HSET", "P:task:ID", "last", "?"]),
        ("task", ["HSET", "P:task:ID", "body", "?"]),
        ("state", ["HSET", "P:task:ID", "state", "?"]),
        ("number", ["HSET", "P:task:ID", "number", "nan"]),
        ("status", ["HSET", "P:task:ID", "status", "inf"]),
        ("consumer", ["HSET", "P:task:ID", "consumer", b"\xff"]),
    ],
)
def test_a_record_that_is_damaged(storage, part, damage):
    """It is shown with what can be read of it and with that as its reason; others are shown."""
    tasks = add(storage, new_task(), new_task())
    lease = take(storage)
    storage.complete(lease, completed(lease, FAILED, reason=""))
    names = (("P:", f"{storage._prefix}:"), ("ID", lease.task.id))
    for old, new in names:
        damage = [part.replace(old, new) if isinstance(part, str) else part for part in damage]
    storage._server.client.execute_command(*damage)
    assert {status.id for status in storage.admin.tasks()} == {task.id for task in tasks}
    assert [status.id for status in storage.admin.tasks(FAILED)] == [lease.task.id]
    status = storage.admin.get(lease.task.id)
    assert status.reason == f"its record is damaged, unreadable: {part}"
    assert status.changes[-1][0] == status.state == FAILED


def test_what_is_no_task_is_put_aside(storage, server, caplog):
    """Version 1 left whole tasks in the list of this name, and it may have evicted a record."""
    (task,) = add(storage, new_task())
    foreign = [b"\x85\xa3url Authorization: Basic c2VjcmV0", b"\x00\xff" * 9, b"plain"]
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.rpush("collective.taskqueue.default", *reversed(foreign))
        caplog.clear()
        assert take(storage).task == task
        assert client.lrange("collective.taskqueue.default:foreign", 0, -1) == foreign[::-1]
        assert client.lrange("collective.taskqueue.default.consumer", 0, -1) == [task.id.encode()]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"entry of {len(entry)} bytes, sha1 {sha1(entry).hexdigest()[:12]}: no task of this"
        " version, moved to the list collective.taskqueue.default:foreign"
        for entry in foreign
    ]


def test_nothing_of_a_task_that_cannot_be_decoded_is_logged(storage, server, caplog):
    """Version 1 left the credentials of users in its tasks, in any form that it had them."""
    secret = "Basic c2VjcmV0"
    entry = msgpack.packb({"format": 1, "headers": [["Authorization", secret]], "url": 1})
    broken, damaged, good = add(storage, new_task(), new_task(), new_task())
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.hset(f"collective.taskqueue.default:task:{broken.id}", "body", entry)
        client.hset(f"collective.taskqueue.default:task:{damaged.id}", "tid", entry)
        client.rpush("collective.taskqueue.default", entry, secret)
    found = [storage.reserve("consumer", timeout=0) for _ in range(3)]
    assert [lease.task for leases in found for lease in leases] == [good]
    for task in (broken, damaged):
        status = storage.admin.get(task.id)
        assert status.state == FAILED
        assert "c2VjcmV0" not in repr(status)
    assert len([line for line in caplog.messages if "failed" in line]) == 2
    assert "c2VjcmV0" not in caplog.text


def test_an_id_without_a_record(storage, server, caplog):
    """It is taken out of every list, and one line says so; nothing else is disturbed."""
    jane = Identity("/acl_users", "jane")
    lost, good = add(storage, new_task(user=jane, key="k", on_conflict="after_running"), new_task())
    lease = take(storage, lease=30.0)
    assert lease.task == lost
    parked = add_one(storage, key="k", on_conflict="after_running")
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.delete(f"collective.taskqueue.default:task:{lost.id}")
        client.zadd("collective.taskqueue.default:leases", {lost.id: 1})
        taken = [lease.task.id for lease in storage.reserve("other", limit=5, timeout=0)]
        assert sorted(taken) == sorted([good.id, parked.id])
        for user in (None, "jane", jane):
            assert lost.id not in [status.id for status in storage.admin.tasks(user=user)]
            assert lost.id not in [status.id for status in storage.admin.tasks(RUNNING, user)]
            assert storage.admin.counts(user)[RUNNING] == (2 if user is None else 0)
        assert list(client.scan_iter(f"*{lost.id}*")) == []
    lines = [line for line in caplog.messages if lost.id in line]
    assert lines[0] == f"task {lost.id}: its record is missing, taken out of the queue"


def test_a_key_of_the_wrong_kind_is_moved_aside(storage, server, caplog):
    """One line says which and where to; the queue begins that one anew."""
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.set("collective.taskqueue.default", "mine")
        client.set("collective.taskqueue.default:wake", "mine")
        (task,) = add(storage, new_task())
        client.set(f"collective.taskqueue.default:wake:{storage._process}", "mine")
        assert take(storage).task == task
        assert storage.reserve("consumer", timeout=0.01) == []
        storage.wake()
        assert client.get("collective.taskqueue.default:broken:queue") == b"mine"
    lines = [line for line in caplog.messages if "moved" in line]
    assert len(lines) == 3
    assert (
        "key collective.taskqueue.default: of another type than this queue uses, moved to"
        " collective.taskqueue.default:broken:queue"
    ) in lines


def test_a_list_that_was_lost_is_made_anew(storage, server):
    """What is queued is known from two places, and so is what runs."""
    tasks = add(storage, new_task(), new_task(), new_task())
    lease = take(storage)
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.delete("collective.taskqueue.default", "collective.taskqueue.default:leases")
    found = storage.reserve("consumer", limit=5, timeout=0)
    found = found or storage.reserve("consumer", limit=5, timeout=0)
    assert [lease.task for lease in found] == list(tasks[1:])
    assert storage.renew(lease) is True
    assert storage.complete(lease, completed(lease)) == SUCCEEDED


def test_what_is_no_task_does_not_hide_what_is(storage, server):
    """No consumer has found it yet; lists and emptying the queue pass over it."""
    tasks = add(storage, new_task(), new_task())
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.rpush("collective.taskqueue.default", b"\x00\xff", b"plain")
        assert [status.task for status in storage.admin.tasks(QUEUED)] == list(tasks)
        assert storage.admin.clear() == 2
        assert storage.admin.tasks() == []
        assert client.lrange("collective.taskqueue.default:foreign", 0, -1) == [
            b"\x00\xff",
            b"plain",
        ]


def test_what_was_removed_while_others_waited_is_skipped(storage, caplog):
    """Its entry in the list is skipped without a word, though there is no record any more."""
    gone, task = add(storage, new_task(), new_task())
    storage.admin.cancel(gone.id)
    storage.admin.remove(gone.id)
    caplog.clear()
    assert take(storage).task == task
    assert caplog.messages == []


@pytest.mark.parametrize("look", [False, True])
def test_an_idle_queue_forgets(storage, server, look):
    """Neither the record nor anything that names it is left, without another end."""
    clock = ManualClock()
    settings = QueueSettings(type="redis", unix_socket_path=server.socket, keep_succeeded=10.0)
    storage = RedisStorage(settings, clock)
    for _ in range(200):
        task = add_one(storage, user=Identity("/acl_users", "jane"))
        lease = take(storage)
        storage.complete(lease, completed(lease, body=b"body"))
    clock.advance(45)
    if look:
        assert storage.admin.tasks() == []
    else:
        # A portion in each call.
        for _ in range(20):
            assert storage.reserve("consumer", timeout=0) == []
    with redis.Redis(unix_socket_path=server.socket) as client:
        left = {key.decode().partition(":")[2].partition(":")[0] for key in client.scan_iter()}
        assert left <= {"consumers", "ended", "number", "promoted", "incarnation", "wake", "bytes"}
        assert task.id not in str(list(client.scan_iter()))
        assert client.get("collective.taskqueue.default:bytes") == b"0"
    storage.close()


def test_names_with_dots_share_nothing(storage, server):
    """Neither two queues nor the consumers of one and another queue."""
    names = {"a": ["b", "b.c", "a.b"], "a.b": ["c", "b"], "a.b.c": ["c"]}
    queues = {
        name: RedisStorage(QueueSettings(type="redis", unix_socket_path=server.socket, queue=name))
        for name in names
    }
    leases = []
    for name, consumers in names.items():
        tasks = add(queues[name], *(new_task(queue=name) for _ in range(4)))
        for consumer, task in zip(consumers, tasks, strict=False):
            (lease,) = queues[name].reserve(consumer, timeout=0)
            assert lease.task == task
            leases.append((name, lease))
    for name, consumers in names.items():
        assert queues[name].admin.counts()[RUNNING] == len(consumers)
        assert queues[name].admin.counts()["queued"] == 4 - len(consumers)
        assert [one.name for one in queues[name].admin.consumers()] == sorted(consumers)
    for name, lease in leases:
        assert queues[name].complete(lease, completed(lease)) == SUCCEEDED
    with redis.Redis(unix_socket_path=server.socket) as client:
        assert client.llen("collective.taskqueue.a") == 1
        assert client.llen("collective.taskqueue.a%2Eb") == 2
    for queue in queues.values():
        queue.close()
