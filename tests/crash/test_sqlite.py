"""One file of SQLite, four processes that add to it and one that consumes, all of them mortal."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.storages.sql import SqlStorage
from crash.processes import fork
from crash.processes import kill
from crash.worker import Journal
from crash.worker import new_task
from crash.worker import work
from functools import partial
from pathlib import Path
from uuid import uuid4
import random
import sqlite3
import time


#: Seconds that anything may take which should take moments.
PATIENCE = 60.0

#: Processes that are killed, one after the other.
KILLS = 16

#: Seconds that one of them lives at most.
LIFETIME = 0.5


def produce(settings: QueueSettings, journal: Journal, name: str) -> None:
    """Queue tasks until killed, and write down each that is certainly queued."""
    storage = SqlStorage(settings)
    for number in range(1_000_000):
        url = f"/{name}-{number}/0"
        batch = str(uuid4())
        storage.stage(batch, [new_task(url)])
        storage.promote(batch)
        journal.write("queued", url)


def test_killed_at_random(tmp_path: Path) -> None:
    """What was queued has run, whoever died when; and the file is sound."""
    settings = QueueSettings(
        type="sql",
        url=f"sqlite:///{tmp_path}/queue.sqlite",
        stage_timeout=PATIENCE,
        max_finished=1_000_000,
        max_deliveries=1000,
    )
    queued, ran = Journal(tmp_path / "queued"), Journal(tmp_path / "ran")
    consume = partial(work, settings, ServerSettings(lease=2.0), ran)
    rng = random.Random(1)
    consumer = fork(consume)
    producers = [fork(partial(produce, settings, queued, f"{n}")) for n in range(4)]
    try:
        for number in range(KILLS):
            time.sleep(rng.uniform(0, LIFETIME))
            if number % 4 == 3:
                kill(consumer)
                consumer = fork(consume)
            else:
                kill(producers.pop(rng.randrange(len(producers))))
                producers.append(fork(partial(produce, settings, queued, f"late-{number}")))
        for pid in producers:
            kill(pid)
        producers.clear()
        storage = SqlStorage(settings)
        wanted = {line.url for line in queued.lines()}
        deadline = time.monotonic() + PATIENCE
        while any(storage.admin.counts()[state] for state in ("queued", "running")):
            assert time.monotonic() < deadline, storage.admin.counts()
            time.sleep(0.05)
        assert storage.admin.counts()["failed"] == 0
        storage.close()
    finally:
        for pid in (consumer, *producers):
            kill(pid)
    assert len(wanted) > KILLS
    assert wanted <= {line.url for line in ran.lines() if line.event == "end"}
    connection = sqlite3.connect(tmp_path / "queue.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
