"""Reading a Redis queue takes as many commands, however many tasks other users have in it.

Commands that the script executes count, so that no clock is needed.
"""

from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import ManualClock
from collective.taskqueue.testing.contract.base import new_task
from functools import partial
from pathlib import Path
from services import RedisServer
from typing import Any
import pytest
import redis


JANE = Identity("/acl_users", "jane")
OTHERS = Identity("/acl_users", "joe")

FEW, MANY = 200, 2000

#: Commands that one call of the script may execute: 5 ms at 2.5 microseconds each.
MOST = 2000


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RedisServer]:
    server = RedisServer(Path(tmp_path_factory.mktemp("redis"))).start()
    yield server
    server.stop()


class Queue:
    """A queue with tasks of others in each state, and one of jane's in each."""

    def __init__(self, server: RedisServer) -> None:
        self.client = redis.Redis(unix_socket_path=server.socket)
        self.client.flushall()
        self.clock = ManualClock()
        settings = QueueSettings(type="redis", unix_socket_path=server.socket, max_finished=10**6)
        self.storage = RedisStorage(settings, self.clock)
        self.batches = 0

    def fill(self, number: int, user: Identity) -> None:
        for state in (*FINISHED, "running", "scheduled", QUEUED):
            due = self.clock() + 1e6 if state == "scheduled" else None
            tasks = [new_task(user=user, due=due, payload=bytes(2000)) for _ in range(number)]
            self.add(tasks)
            if state == "cancelled":
                for task in tasks:
                    self.storage.admin.cancel(task.id)
            elif state not in ("scheduled", QUEUED):
                leases = [self._take() for _ in tasks]
                for lease in leases if state in FINISHED else ():
                    self.storage.complete(lease, completed(lease, state))

    def _take(self) -> Any:
        while not (leases := self.storage.reserve("consumer", timeout=0, lease=1e6)):
            pass
        return leases[0]

    def add(self, tasks: list) -> None:
        self.batches += 1
        self.storage.stage(f"batch {self.batches}", tasks)
        self.storage.promote(f"batch {self.batches}")

    def cost(self, call: Any) -> dict[str, int]:
        """Return how often each command was executed."""
        self.client.config_resetstat()
        call()
        found = self.client.info("commandstats")
        # Not those of a connection that begins or is looked after.
        other = ("config", "info", "ping", "hello", "client", "select")
        names = [name for name in found if not name.removeprefix("cmdstat_").startswith(other)]
        return {name: found[name]["calls"] for name in names}


def looks(storage: RedisStorage, task_id: str) -> dict[str, Any]:
    """Return every way to look, with each filter."""
    found: dict[str, Any] = {
        "len": lambda: storage.admin.counts()["queued"],
        "whole": lambda: storage.admin.get(task_id),
        "brief": lambda: storage.admin.get(task_id, brief=True),
        "paused": storage.admin.paused,
        "throughput": storage.admin.throughput,
        "consumers": storage.admin.consumers,
        "in doubt": storage.admin.in_doubt,
    }
    for user in (None, "jane", JANE):
        found[f"counts {user}"] = lambda user=user: storage.admin.counts(user)
        for state in (None, *STATES):
            for start in (0, 1):
                found[f"{state} {user} from {start}"] = lambda *, where=(state, user, start): (
                    storage.admin.tasks(*where, 1)
                )
    for user in (None, "jane", JANE):
        for states in ((),) if user is None else ((), (FAILED,), STATES):
            conditions = TaskFilter(states, user=user)
            found[f"search {user} {states}"] = lambda conditions=conditions: storage.admin.search(
                conditions, None, 1
            )
    return found


def test_reading_costs_the_same_however_many_tasks_others_have(server):
    """Two hundred tasks of others in each state, or two thousand."""
    queue = Queue(server)
    queue.fill(2, JANE)
    [status] = queue.storage.admin.tasks(QUEUED, JANE, size=1)
    costs = []
    for number in (FEW, MANY - FEW):
        queue.fill(number, OTHERS)
        calls = looks(queue.storage, status.id)
        costs.append({name: queue.cost(call) for name, call in calls.items()})
        counts = queue.storage.admin.counts(OTHERS)
        assert min(counts.values()) >= number - 10
    few, many = costs
    # How many run is not what a look is about.
    assert {name: cost for name, cost in few.items() if name != "consumers"} == {
        name: cost for name, cost in many.items() if name != "consumers"
    }
    assert max(sum(cost.values()) for cost in many.values()) <= MOST
    queue.storage.close()


def test_what_was_cancelled_in_front_costs_nothing(server):
    """Neither the number of those that wait nor a list of them, for whom it may be."""
    queue = Queue(server)
    costs = []
    for number in (FEW, MANY):
        cancelled = [new_task(user=OTHERS) for _ in range(number)]
        queue.add(cancelled)
        waiting = new_task(user=JANE)
        queue.add([waiting])
        for task in cancelled:
            queue.storage.admin.cancel(task.id)
        for user in (None, JANE):
            assert [status.id for status in queue.storage.admin.tasks(QUEUED, user)] == [waiting.id]
        calls = looks(queue.storage, waiting.id)
        names = [name for name in calls if name.startswith((QUEUED, "counts", "len"))]
        costs.append({name: queue.cost(calls[name]) for name in names})
        queue.storage.admin.cancel(waiting.id)
    assert costs[0] == costs[1]
    queue.storage.close()


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_an_id_costs_the_same_whosever_it_is(server, size):
    """A large payload and a large response are not loaded to find out who may see the task."""
    queue = Queue(server)
    task = new_task(user=OTHERS, payload=bytes(size))
    queue.add([task])
    lease = queue._take()
    queue.storage.complete(lease, completed(lease, FAILED, body=bytes(size)))
    before = queue.client.info("stats")["total_net_output_bytes"]
    queue.storage.admin.get(task.id, brief=True)
    queue.storage.admin.tasks()
    assert queue.client.info("stats")["total_net_output_bytes"] - before < 20_000
    queue.storage.close()


@pytest.mark.parametrize(("together", "most"), [(1, 45), (10, 14), (100, 11)])
def test_an_exchange_writes_what_is_common_once(server, together, most):
    """For each task that is ended and the next one reserved: its record, and little else."""
    queue = Queue(server)
    queue.add([new_task(user=JANE) for _ in range(3 * together)])
    leases = queue.storage.reserve("consumer", limit=together, timeout=0)
    for _ in range(2):
        # The first one finds keys that are not there yet.
        ends = [(lease, completed(lease)) for lease in leases]
        found: list[Any] = []
        cost = queue.cost(
            lambda ends=ends, found=found: found.extend(
                queue.storage.complete_and_reserve(ends, "consumer", together, 30.0)
            )
        )
        states, leases = found
        assert states == [SUCCEEDED] * together
        assert len(leases) == together
    assert sum(cost.values()) - cost["cmdstat_evalsha"] <= most * together, cost
    queue.storage.close()


def test_no_call_of_the_script_takes_long(server):
    """The script does work that has piled up in portions, and serves others in between."""
    queue = Queue(server)
    storage = queue.storage

    def pile_up() -> None:
        now = queue.clock()
        queue.add([new_task(user=OTHERS, due=now + 10) for _ in range(MANY)])
        queue.add([new_task(user=OTHERS) for _ in range(2 * MANY)])
        for _ in range(MANY // 200):
            storage.reserve("consumer", limit=100, timeout=0, lease=10.0)

    def most(call: Any) -> int:
        """Return how many commands the dearest call of the script executes."""
        run, found = storage._server.run, [0]

        def counted(*args: Any) -> Any:
            answer: Any = None

            def once() -> None:
                nonlocal answer
                answer = run(*args)

            found.append(sum(queue.cost(once).values()))
            return answer

        storage._server.run = counted
        try:
            call()
        finally:
            storage._server.run = run
        return max(found)

    pile_up()
    queue.clock.advance(60)
    # What is due, and what was lost, comes with it.
    assert most(lambda: storage.reserve("consumer", timeout=0, lease=1e6)) <= MOST
    assert most(storage.admin.recover) <= MOST
    for status in storage.admin.tasks(QUEUED, size=MANY):
        storage.admin.cancel(status.id)
    assert most(lambda: storage.reserve("consumer", timeout=0, lease=1e6)) <= MOST
    queue.clock.advance(8 * 86400)
    assert most(lambda: storage.admin.tasks()) <= MOST
    assert most(lambda: storage.admin.search(TaskFilter(url="/nowhere"), None, 1)) <= MOST
    names = [status.id for status in storage.admin.tasks(CANCELLED, size=100)]
    for action in ("retry", "cancel", "remove"):
        assert most(partial(storage.admin.change, action, names, STATES)) <= 2 * MOST
    pile_up()
    assert most(storage.admin.clear) <= MOST
    assert storage.admin.counts()[QUEUED] == 0
    queue.fill(MANY // 4, OTHERS)
    assert most(lambda: storage.admin.purge(SUCCEEDED)) <= MOST
    storage.close()
