"""One broken thing stops nobody: each key and each field of a Redis queue, in each way.

A scene with a task in every state is broken in one place. Whatever that place was, other tasks
are reserved and finished, and all lists and numbers answer.
"""

from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.contract.base import add
from collective.taskqueue.contract.base import add_one
from collective.taskqueue.contract.base import ending
from collective.taskqueue.contract.base import ManualClock
from collective.taskqueue.contract.base import new_task
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.storages import _process
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Progress
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from contextlib import suppress
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
    **{name: f"{P}:{name}" for name in ("staged", "witness", "keys", "running-keys")},
    **{name: f"{P}:{name}" for name in ("running-key", "parked", "aliases", "ghosts")},
    **{name: f"{P}:{name}" for name in ("strangers", "number", "born", "wake")},
    **{f"of {state}": f"{P}:of:{state}:jane" for state in ("", *STATES)},
    **{f"person {state}": f"{P}:person:{state}:{JANE.person}" for state in ("", *STATES)},
    "batch": f"{P}:batch:batch",
}

#: The tasks of the scene whose records are broken.
TASKS = ("waiting", "later", "running", "keyed", "parked", "failed", "succeeded")

ENTRIES = (b"\xff\xfe" * 50, b"x" * 1_000_000, str(uuid4()).encode(), b"", SECRET.encode())
VALUES = (b"x", b"", b"\xff\xfe", b"nan", b"-inf", b"1e999", b"9" * 400, b"-1", b"x" * 1_000_000)
SCORES = ("-inf", "inf", "0", "-1e300", "1e300", "1e15")


class Scene:
    """A queue with something in each of its keys, as it was before it is broken."""

    def __init__(self, client: redis.Redis, settings: QueueSettings) -> None:
        self.client = client
        self.settings = settings
        client.flushall()
        self.clock = ManualClock()
        self.ids = self._fill(RedisStorage(settings, self.clock))
        self._kept = {key: client.dump(key) for key in client.keys()}

    def _fill(self, storage):
        ids = {}
        for name, state in (("succeeded", SUCCEEDED), ("failed", FAILED)):
            ids[name] = add_one(storage, user=JANE).id
            (lease,) = storage.reserve("other", timeout=0)
            storage.report(lease, Progress(1.0, None, "on the way", 1.0))
            storage.finish(lease, ending(lease, state, body=b"body"))
        ids["cancelled"] = add_one(storage, user=JANE).id
        ghost = add_one(storage, user=JANE).id
        storage.cancel(ghost)
        storage.cancel(ids["cancelled"])
        storage.retry(ghost)
        keyed = {"key": "k", "on_conflict": "after_running", "user": JANE}
        ids["keyed"] = add_one(storage, **keyed).id
        ids["running"] = add_one(storage, user=JANE, payload=b"payload").id
        ids["waiting"] = add_one(storage, user=JANE, key="one").id
        storage.reserve("other", limit=3, timeout=0)
        ids["parked"] = add_one(storage, **keyed).id
        storage.client = None
        (lease,) = storage.reserve("other", limit=1, timeout=0)
        storage.give_back([lease])
        self.client.rpush(P, b"stranger")
        (lease,) = storage.reserve("other", limit=1, timeout=0)
        storage.give_back([lease])
        add_one(storage, user=JANE, key="one")
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

    def ways(self, key: str) -> Iterator[tuple]:
        """Yield the commands that break a key, each one by itself."""
        kind = self.client.type(key).decode()
        yield ("DEL", key), ("RPUSH" if kind == "string" else "SET", key, "wrong")
        yield (("DEL", key),)
        if kind == "string":
            for value in VALUES:
                yield (("SET", key, value),)
        elif kind == "list":
            for entry in ENTRIES:
                yield (("RPUSH", key, entry),)
                yield (("LPUSH", key, entry),)
            yield (("LTRIM", key, 1, -1),)
            yield (("LTRIM", key, 0, -2),)
            yield from ((("LSET", key, i, value),) for i in (0, -1) for value in VALUES)
        elif kind == "zset":
            for member, _ in zip(self.client.zrange(key, 0, -1), range(3), strict=False):
                yield (("ZREM", key, member),)
                yield from ((("ZADD", key, score, member),) for score in SCORES)
            for entry in ENTRIES:
                yield from ((("ZADD", key, score, entry),) for score in SCORES[:3])
        elif kind == "hash":
            for field in self.client.hkeys(key):
                yield (("HDEL", key, field),)
                before = self.client.hget(key, field)
                yield (("HSET", key, field, before[: len(before) // 2]),)
                yield from ((("HSET", key, field, value),) for value in VALUES)
            for entry in ENTRIES:
                yield from ((("HSET", key, entry, value),) for value in VALUES[:4])


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Iterator[Scene]:
    server = RedisServer(Path(tmp_path_factory.mktemp("redis"))).start()
    settings = QueueSettings(type="redis", unix_socket_path=server.socket)
    with redis.Redis(unix_socket_path=server.socket) as client:
        yield Scene(client, settings)
    server.stop()


def look(storage: RedisStorage, ids: list[str]) -> None:
    """Ask everything that can be asked; each answer is one, whatever it says."""
    for user in (None, "jane", JANE):
        assert set(storage.counts(user)) == set(STATES)
        for state in (None, *STATES):
            for start in (0, 1):
                storage.tasks(state, user, start)
    for task_id in ids:
        for brief in (True, False):
            with suppress(UnknownTask):
                assert storage.get(task_id, brief).id == task_id
    assert len(storage) >= 0
    storage.consumers()
    storage.throughput()
    storage.in_doubt()
    storage.paused()


def work(storage: RedisStorage) -> None:
    """Two new tasks are done, one way and the other, whatever comes before them."""
    tasks = add(storage, new_task(), new_task(user=JANE, key="new"))
    ends: list = []
    for number in range(30):
        if number % 2:
            leases = storage.reserve("consumer", limit=3, timeout=0)
        else:
            _, leases = storage.exchange(ends, "consumer", 3, 30.0)
            ends = []
        ends += [(lease, ending(lease)) for lease in leases]
        if number % 2 or not leases:
            for lease, transition in ends:
                storage.renew(lease)
                storage.report(lease)
                storage.finish(lease, transition)
            ends = []
        states = [storage.get(task.id).state for task in tasks]
        if states == [SUCCEEDED, SUCCEEDED] and not leases:
            return
    raise AssertionError(f"other tasks were not done: {states}")


def steer(storage: RedisStorage, ids: list[str]) -> None:
    """Whatever people ask of each task, it is done or refused."""
    for task_id in ids:
        for method in ("hasten", "cancel", "retry", "forget_response", "cancel", "remove"):
            with suppress(UnknownTask, ForbiddenTransition):
                getattr(storage, method)(task_id)


def live(scene: Scene, storage: RedisStorage) -> None:
    """Let the queue live on."""
    ids = list(scene.ids.values())
    look(storage, ids)
    storage.promote("batch")
    work(storage)
    scene.clock.advance(60)
    storage.recover()
    work(storage)
    scene.clock.advance(2000)
    work(storage)
    look(storage, ids)
    steer(storage, ids)
    scene.clock.advance(8 * 86400)
    look(storage, ids)
    storage.clear()
    for state in FINISHED:
        storage.purge(state)
    work(storage)


def break_and_live(scene: Scene, key: str, monkeypatch, caplog) -> None:
    monkeypatch.setattr(_process, "is_dead", lambda name: True)
    caplog.set_level("INFO", "collective.taskqueue")
    storage = scene.restore()
    assert scene.client.exists(key), "there is nothing to break"
    storage.close()
    for commands in scene.ways(key):
        storage = scene.restore()
        caplog.clear()
        try:
            for command in commands:
                scene.client.execute_command(*command)
            storage.reserve("other", timeout=0)
            live(scene, storage)
        except Exception as exc:
            shown = [[str(part)[:60] for part in command] for command in commands]
            exc.add_note(f"after {shown}")
            raise
        finally:
            storage.close()
        assert SECRET[-10:] not in caplog.text
        assert len(caplog.messages) < 100
    scene.restore().close()


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
    for key in scene.client.keys():
        name = key.decode().removeprefix(P).rpartition(":")[0]
        single = name in (":task", ":history", ":promoted", ":aliases", ":wake")
        assert single or key.decode() in known, f"nobody breaks {key!r}"
    caplog.clear()
    live(scene, storage)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert SCHEDULED in STATES
    storage.close()
