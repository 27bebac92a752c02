"""Each key and each field of a Redis queue is broken, in each way: other tasks go on.

A scene with a task in every state is broken in one place. Wherever that place is, other tasks
are reserved and finished, and all lists and numbers answer.
"""

from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.storages import processes
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import ACTIONS
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Progress
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import ManualClock
from collective.taskqueue.testing.contract.base import new_task
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from services import RedisServer
from uuid import uuid4
import pytest
import redis


JANE = Identity("/acl_users", "jane")
P = "collective.taskqueue.default"
SECRET = "Authorization: Basic c2VjcmV0"

#: Keys by what comes after the prefix; of those with an id, a name for whose it is.
KEYS = {
    "queue": P,
    "consumer": f"{P}.other",
    **{name: f"{P}:{name}" for name in ("all", "queued", "scheduled", "running", "leases")},
    **{f"finished {state}": f"{P}:finished:{state}" for state in FINISHED},
    **{name: f"{P}:{name}" for name in ("consumers", "ended", "expiry", "sizes", "bytes")},
    **{name: f"{P}:{name}" for name in ("staged", "keys", "running-keys")},
    **{name: f"{P}:{name}" for name in ("running-key", "parked", "aliases", "tombstones")},
    **{name: f"{P}:{name}" for name in ("foreign", "number", "incarnation", "wake")},
    **{f"of {state}": f"{P}:of:{state}:jane" for state in ("", *STATES)},
    **{f"person {state}": f"{P}:person:{state}:{JANE.person}" for state in ("", *STATES)},
    "batch": f"{P}:batch:batch",
}

#: The tasks of the scene whose records are broken.
TASKS = ("waiting", "later", "running", "keyed", "parked", "failed", "succeeded")

ENTRIES = (b"\xff\xfe" * 50, b"x" * 100_000, str(uuid4()).encode(), SECRET.encode())
VALUES = (b"", b"\xff\xfe", b"nan", b"9" * 400, b"x" * 100_000)
SCORES = ("-inf", "inf", "0", "1e300")


class Scene:
    """A queue with something in each of its keys, as it was before it is broken."""

    def __init__(self, client: redis.Redis, settings: QueueSettings) -> None:
        self.client = client
        self.settings = settings
        client.flushall()
        self.clock = ManualClock()
        self.ids = self._fill(RedisStorage(settings, self.clock))
        self._kept = {key: client.dump(key) for key in client.scan_iter()}

    def _fill(self, storage: RedisStorage) -> dict[str, str]:
        ids = {}
        for name, state in (("succeeded", SUCCEEDED), ("failed", FAILED)):
            ids[name] = add_one(storage, user=JANE).id
            (lease,) = storage.reserve("other", timeout=0)
            storage.report(lease, Progress(1.0, None, "on the way", 1.0))
            storage.complete(lease, completed(lease, state, body=b"body"))
        keyed = {"key": "k", "on_conflict": "after_running", "user": JANE}
        ids["keyed"] = add_one(storage, **keyed).id
        ids["running"] = add_one(storage, user=JANE, payload=b"payload").id
        assert len(storage.reserve("other", limit=2, timeout=0)) == 2
        ids["parked"] = add_one(storage, **keyed).id
        self.client.rpush(P, b"stranger")
        assert storage.reserve("other", timeout=0) == []
        ids["waiting"] = add_one(storage, user=JANE, key="one").id
        add_one(storage, user=JANE, key="one")
        for name in ("retried", "cancelled"):
            ids[name] = add_one(storage, user=JANE).id
            storage.admin.cancel(ids[name])
        storage.admin.retry(ids["retried"])
        ids["later"] = add_one(storage, user=JANE, due=self.clock() + 1000).id
        storage.stage("batch", [new_task(user=JANE), new_task(due=self.clock() + 5)], "witness")
        storage.close()
        return ids

    def restore(self) -> RedisStorage:
        """Return a storage on the scene as it was."""
        self.client.flushall()
        for key, value in self._kept.items():
            self.client.restore(key, 0, value)
        self.clock = ManualClock()
        return RedisStorage(self.settings, self.clock)

    def ways(self, key: str) -> list[tuple]:
        """Return commands each of which breaks the key as it is now."""
        kind = self.client.type(key).decode()
        found: list[tuple] = [("DEL", key), ("SET", key, "wrong")]
        if kind == "string":
            found += [("SET", key, value) for value in VALUES]
        elif kind == "list":
            found += [(push, key, entry) for entry in ENTRIES for push in ("RPUSH", "LPUSH")]
            found += [("LTRIM", key, 1, -1), ("LTRIM", key, 0, -2)]
            found += [("LSET", key, place, value) for place in (0, -1) for value in VALUES]
        elif kind == "zset":
            for member in self.client.zrange(key, 0, 2):
                found.append(("ZREM", key, member))
                found += [("ZADD", key, score, member) for score in SCORES]
            found += [("ZADD", key, score, entry) for entry in ENTRIES for score in SCORES[:2]]
        elif kind == "hash":
            for field, value in self.client.hgetall(key).items():
                found += [("HDEL", key, field), ("HSET", key, field, value[: len(value) // 2])]
                found += [("HSET", key, field, value) for value in VALUES]
            found += [("HSET", key, entry, VALUES[0]) for entry in ENTRIES]
        return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Iterator[Scene]:
    server = RedisServer(Path(tmp_path_factory.mktemp("redis"))).start()
    settings = QueueSettings(type="redis", unix_socket_path=server.socket)
    with redis.Redis(unix_socket_path=server.socket) as client:
        yield Scene(client, settings)
    server.stop()


def look(storage: RedisStorage, ids: list[str]) -> None:
    """Ask everything that can be asked; each call returns an answer."""
    for user in (None, "jane", JANE):
        assert set(storage.admin.counts(user)) == set(STATES)
        storage.admin.tasks(None, user, 1)
        for state in STATES:
            storage.admin.tasks(state, user)
        storage.admin.search(TaskFilter(user=user))
        storage.admin.search(TaskFilter(STATES, "/", user, 0.0, 1e12))
        storage.admin.search(TaskFilter(STATES, user=user, reason="a"))
    for task_id in ids:
        for brief in (True, False):
            with suppress(UnknownTask):
                assert storage.admin.get(task_id, brief).id == task_id
    assert storage.admin.counts()["queued"] >= 0
    storage.admin.consumers()
    storage.admin.throughput()
    storage.admin.in_doubt()
    storage.admin.paused()


def work(storage: RedisStorage) -> None:
    """Finish two new tasks, one way and the other, behind the broken ones."""
    tasks = add(storage, new_task(), new_task(user=JANE, key="new"))
    ends: list = []
    for number in range(30):
        if number % 2:
            leases = storage.reserve("consumer", limit=3, timeout=0)
        else:
            _, leases = storage.complete_and_reserve(ends, "consumer", 3, 30.0)
            ends = []
        ends += [(lease, completed(lease)) for lease in leases]
        if number % 2 or not leases:
            for lease, transition in ends:
                storage.renew(lease)
                storage.report(lease)
                storage.complete(lease, transition)
            ends = []
        states = [storage.admin.get(task.id).state for task in tasks]
        if states == [SUCCEEDED, SUCCEEDED] and not leases:
            return
    raise AssertionError(f"other tasks were not done: {states}")


def steer(storage: RedisStorage, ids: list[str]) -> None:
    """Call each administrative method for each task: the storage does it or refuses."""
    for task_id in ids:
        for method in ("run_now", "cancel", "retry", "forget_response", "cancel", "remove"):
            with suppress(UnknownTask, ForbiddenTransition):
                getattr(storage.admin, method)(task_id)
    for action in ACTIONS:
        storage.admin.change(action, ids, STATES)


def live(scene: Scene, storage: RedisStorage) -> None:
    """Let the queue live on."""
    ids = list(scene.ids.values())
    look(storage, ids)
    storage.promote("batch")
    work(storage)
    scene.clock.advance(60)
    storage.admin.recover()
    scene.clock.advance(2000)
    work(storage)
    steer(storage, ids)
    scene.clock.advance(8 * 86400)
    look(storage, ids)
    storage.admin.clear()
    for state in FINISHED:
        storage.admin.purge(state)
    work(storage)


def break_and_live(scene: Scene, key: str, monkeypatch, caplog) -> None:
    monkeypatch.setattr(processes, "is_dead", lambda name: True)
    caplog.set_level("INFO", "collective.taskqueue")
    scene.restore().close()
    assert scene.client.exists(key), "there is nothing to break"
    for command in scene.ways(key):
        storage = scene.restore()
        caplog.clear()
        try:
            scene.client.execute_command(*command)
            storage.reserve("other", timeout=0)
            live(scene, storage)
        except Exception as exc:
            exc.add_note(f"after {[str(part)[:60] for part in command]}")
            raise
        finally:
            storage.close()
        assert SECRET[-10:] not in caplog.text
        assert len(caplog.messages) < 100


@pytest.mark.parametrize("key", KEYS)
def test_a_broken_key(scene, key, monkeypatch, caplog):
    """Missing, of another type, with entries that are no tasks, and with numbers that are none."""
    break_and_live(scene, KEYS[key], monkeypatch, caplog)


@pytest.mark.parametrize("task", TASKS)
def test_a_broken_record(scene, task, monkeypatch, caplog):
    """Each of its fields: missing, truncated, huge, no number, not UTF-8."""
    break_and_live(scene, f"{P}:task:{scene.ids[task]}", monkeypatch, caplog)


@pytest.mark.parametrize("task", ["failed", "succeeded"])
def test_a_broken_history(scene, task, monkeypatch, caplog):
    """Of another type, or no history."""
    break_and_live(scene, f"{P}:history:{scene.ids[task]}", monkeypatch, caplog)


def test_nothing_is_broken(scene, caplog):
    """The scene has all keys there are, and it lives without a complaint."""
    storage = scene.restore()
    known = {*KEYS.values(), *(f"{P}:task:{task_id}" for task_id in scene.ids.values())}
    for key in scene.client.scan_iter():
        name = key.decode().removeprefix(P).rpartition(":")[0]
        single = name in (":task", ":history", ":promoted", ":aliases", ":wake")
        assert single or key.decode() in known, f"no test breaks {key!r}"
    caplog.clear()
    live(scene, storage)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    storage.close()


@pytest.mark.parametrize("score", ["inf", "1e300", "1e15"])
def test_what_is_never_due_has_failed(scene, score):
    """It would wait for ever, and its record be kept as long."""
    storage = scene.restore()
    (place,) = scene.client.zrange(f"{P}:scheduled", 0, -1)
    scene.client.execute_command("ZADD", f"{P}:scheduled", score, place)
    while storage.reserve("other", timeout=0):
        pass
    later = storage.admin.get(scene.ids["later"])
    assert (later.state, later.reason) == (
        FAILED,
        "its record is damaged: its due time is unknown",
    )
    assert storage.admin.counts()[SCHEDULED] == 0
    storage.close()


@pytest.mark.parametrize("score", ["inf", "1e300", "1e15"])
def test_a_lease_without_an_end_is_over_before_long(scene, score):
    """A task whose process is gone comes again, and so does what waits for its key."""
    storage = scene.restore()
    running = scene.ids["running"], scene.ids["keyed"]
    for task_id in running:
        scene.client.execute_command("ZADD", f"{P}:leases", score, task_id)
    while storage.reserve("other", timeout=0):
        pass
    scene.clock.advance(60)
    storage.admin.recover()
    states = [storage.admin.get(task_id).state for task_id in running]
    # In place of one with a newer task of its key that one runs.
    assert states == [QUEUED, CANCELLED]
    assert scene.ids["parked"] in [lease.task.id for lease in storage.reserve("x", 5, timeout=0)]
    storage.close()


@pytest.mark.parametrize("state", [SUCCEEDED, FAILED])
@pytest.mark.parametrize("way", ["too many", "too large", "over", "purged"])
def test_what_has_not_finished_is_not_forgotten(scene, state, way):
    """A list of what has finished that names a task which waits does not take it away."""
    scene.restore().close()
    few = {"too many": {"max_finished": 1}, "too large": {"max_finished_bytes": 0}}
    settings = replace(scene.settings, **few.get(way, {}))
    storage = RedisStorage(settings, scene.clock)
    waiting = scene.ids["waiting"]
    line = f"{P}:expiry" if way == "over" else f"{P}:finished:{state}"
    scene.client.zadd(line, {waiting: -1})
    if way == "purged":
        storage.admin.purge(state)
    scene.clock.advance(20)
    others = [add_one(storage).id for _ in range(2)]
    leases = {lease.task.id: lease for lease in storage.reserve("other", 10, timeout=0)}
    for task_id in others:
        storage.complete(leases[task_id], completed(leases[task_id], state))
    assert storage.admin.get(waiting).state == RUNNING
    assert storage.complete(leases[waiting], completed(leases[waiting])) == SUCCEEDED
    storage.close()


def test_a_record_of_another_kind_is_moved_aside_and_not_forgotten(scene):
    """Another program has put something there; the queue must not delete it."""
    storage = scene.restore()
    scene.client.set(f"{P}:task:{scene.ids['failed']}", "of somebody else")
    storage.admin.purge(FAILED)
    assert storage.admin.tasks(FAILED) == []
    aside = scene.client.keys(f"{P}:broken:*")
    assert [scene.client.get(key) for key in aside] == [b"of somebody else"]
    storage.close()


def test_a_tombstone_of_a_waiting_task(scene):
    """The task runs, which would else be skipped for ever; an idle consumer does not spin."""
    storage = scene.restore()
    scene.client.hset(f"{P}:tombstones", scene.ids["waiting"], 10**9)
    found = [lease.task.id for _ in range(4) for lease in storage.reserve("x", 9, timeout=0)]
    assert scene.ids["waiting"] in found
    assert storage.admin.counts()["queued"] == 1, "only what is parked"
    storage.close()
