"""Exactly once: workers are killed and frozen around the commit, on every database and storage."""

from __future__ import annotations

from crash import run
import pytest


#: Injections of each combination, and those of them that find their worker alive at their step.
INJECTIONS = 16
FIRED = 12


@pytest.mark.parametrize("storage", ["redis", "sqlite", "postgresql"])
@pytest.mark.parametrize("database", ["file_storage", "zeo", "rel_storage"])
def test_a_task_writes_once(database: str, storage: str) -> None:
    options = ("--database", database, "--storage", storage, "--injections", INJECTIONS)
    totals = run("exactly", *options)
    assert totals["kills"] + totals["freezes"] >= FIRED
    assert totals["ended by their slots"] > 0


def test_without_slots_some_write_twice() -> None:
    """The harness can see it."""
    totals = run("exactly", "--injections", INJECTIONS, "--without-slots", fails=True)
    assert totals["doubled"] > 0
    assert totals["missing"] == 0
