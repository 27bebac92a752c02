"""Statistics of a SQL queue: consumers that are alive, and how many tasks have finished.

They are gathered in memory, and stored every few seconds.
"""

from __future__ import annotations

from collections import Counter
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.sql.schema import CONSUMER
from collective.taskqueue.storages.sql.schema import ENDED
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.storages.sql.states import HOUR
from collective.taskqueue.storages.sql.states import sane
from collective.taskqueue.task import State
from sqlalchemy import Connection
from sqlalchemy import delete
import logging
import threading


logger = logging.getLogger("collective.taskqueue")

#: Seconds between two writes of statistics; a process that is killed loses its numbers of that
#: time.
INTERVAL = 4.0


class Statistics:
    """See the module. All times are in seconds by the clock of the database."""

    def __init__(self, session: Session, process: str) -> None:
        self._session = session
        self._process = process
        self._lock = threading.Lock()
        self._seen: dict[str, float] = {}
        self._ended: Counter[tuple[int, State]] = Counter()
        self._stored = float("-inf")

    def seen(self, consumer: str, now: float) -> None:
        """Record that a consumer is alive; store it once in `INTERVAL` seconds."""
        with self._lock:
            if abs(now - self._seen.get(consumer, float("-inf"))) < INTERVAL:
                return
            self._seen[consumer] = now
        self._store({consumer}, now)

    def forget(self, consumer: str) -> None:
        """Delete the record of a consumer that has stopped, until `seen` is called again."""
        queue = self._session.settings.queue
        with self._lock:
            self._seen.pop(consumer, None)
        mine = (
            CONSUMER.c.queue == queue,
            CONSUMER.c.name == consumer,
            CONSUMER.c.process == self._process,
        )
        self._session.write(lambda connection: connection.execute(delete(CONSUMER).where(*mine)))

    def ended(self, state: State, now: float, busy: bool = False, number: int = 1) -> None:
        """Count `number` tasks that reached a final state; store the counts at once unless `busy`.

        A busy caller will call again before long: store its counts once in `INTERVAL` seconds.
        """
        with self._lock:
            self._ended[int(now // 60), state] += number
            if busy and abs(now - self._stored) < INTERVAL:
                return
        self._store(set(), now)

    def flush(self) -> None:
        """Store what is left; called before the throughput is read, and at exit."""
        if self._ended:
            self._store(set(), max(minute for minute, _ in self._ended) * 60.0)

    def _store(self, consumers: set[str], now: float) -> None:
        with self._lock:
            ended, self._ended = self._ended, Counter()
            self._stored = now
        try:
            self._session.write(lambda connection: self._write(connection, consumers, ended, now))
        except StorageUnavailable as exc:
            logger.debug("queue %s: no statistics (%s)", self._session.settings.queue, exc)
            with self._lock:
                self._ended.update(ended)

    def _write(
        self,
        connection: Connection,
        consumers: set[str],
        ended: Counter[tuple[int, State]],
        now: float,
    ) -> None:
        queue = self._session.settings.queue
        insert = self._session.dialect.insert
        for consumer in sorted(consumers):
            values = {"queue": queue, "name": consumer, "process": self._process, "seen": now}
            alive = insert(CONSUMER).values(values)
            connection.execute(
                alive.on_conflict_do_update(
                    index_elements=[CONSUMER.c.queue, CONSUMER.c.name, CONSUMER.c.process],
                    set_={"seen": alive.excluded.seen},
                )
            )
            old = ~CONSUMER.c.seen.between(now - HOUR, now + HOUR)
            connection.execute(delete(CONSUMER).where(CONSUMER.c.queue == queue, old))
        so_far = sane(ENDED.c.number)
        # Every process writes the rows in the same order, against deadlocks.
        for (minute, state), number in sorted(ended.items()):
            values = {"queue": queue, "minute": minute, "state": state, "number": number}
            counted = insert(ENDED).values(values)
            connection.execute(
                counted.on_conflict_do_update(
                    index_elements=[ENDED.c.queue, ENDED.c.minute, ENDED.c.state],
                    set_={"number": so_far + counted.excluded.number},
                )
            )
        if ended:
            old = ~ENDED.c.minute.between(now // 60 - 59, now // 60 + 60)
            connection.execute(delete(ENDED).where(ENDED.c.queue == queue, old))
