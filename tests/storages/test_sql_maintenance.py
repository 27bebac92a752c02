"""What administrators do to a database while it is used: nothing is lost, all goes on."""

from __future__ import annotations

from contextlib import closing
from load import Load
from load import TIMEOUT
from pathlib import Path
from services import PostgresServer
import psycopg
import sqlite3
import subprocess
import sys
import time


#: Times that each statement is run, and that the test locks the table.
ROUNDS, LOCKS = 8, 3

#: Seconds that maintenance of so few rows takes at most, on a slow machine.
PATIENCE = 20.0

STATEMENTS = (
    "VACUUM (FREEZE)",
    "VACUUM FULL taskqueue_task",
    "REINDEX TABLE CONCURRENTLY taskqueue_task",
    "ANALYZE",
)


def test_postgresql_is_vacuumed(postgres_server: PostgresServer):
    """Some of it locks everybody out, for a while that a commit waits for."""
    url = postgres_server.new_database()
    load = Load(url, adders=2, timeout=PATIENCE)
    load.start()
    try:
        load.await_return()
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in STATEMENTS * ROUNDS:
                connection.execute(statement)
                load.await_return()
    finally:
        load.stop()
    load.assert_once()


def test_postgresql_is_locked_for_longer_than_a_call_waits(postgres_server: PostgresServer):
    """As in an outage: a call that has given up gets no tasks, which no consumer would run."""
    url = postgres_server.new_database()
    load = Load(url, adders=2)
    load.start()
    try:
        with psycopg.connect(url) as connection:
            for _ in range(LOCKS):
                load.await_return()
                connection.execute("LOCK TABLE taskqueue_task IN ACCESS EXCLUSIVE MODE")
                time.sleep(1.5 * TIMEOUT)
                connection.rollback()
        load.await_return()
    finally:
        load.stop()
    load.assert_once()


def test_sqlite_is_vacuumed(tmp_path: Path):
    """Another process rewrites the whole file, and takes the log into it."""
    path = tmp_path / "queue.sqlite"
    load = Load(f"sqlite:///{path}", adders=2, timeout=PATIENCE)
    load.start()
    try:
        for _ in range(ROUNDS):
            load.await_return()
            subprocess.run([sys.executable, "-c", _MAINTENANCE, path], check=True, timeout=60)
        load.await_return()
    finally:
        load.stop()
    load.assert_once()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


_MAINTENANCE = """
import sqlite3
import sys

connection = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
for _ in range(5):
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
connection.close()
"""
