"""Committed ⇔ queued, whatever kills the process at whatever moment; `make crash` does more."""

from __future__ import annotations

from crash import run
import pytest


@pytest.mark.parametrize(
    ("database", "storage", "injections"),
    [
        ("file_storage", "redis", 72),
        ("zeo", "redis", 40),
        ("file_storage", "sqlite", 44),
        ("file_storage", "postgresql", 44),
    ],
)
def test_committed_if_and_only_if_queued(database, storage, injections):
    """C33, D03, N34: at every step of the protocol and at random moments."""
    options = ("--database", database, "--storage", storage, "--injections", injections)
    totals = run("enqueue", *options)
    assert totals["violations"] == 0
    assert totals["injections"] == injections
    # The crashes really hit where it hurts.
    assert totals["committed"] > injections
    assert totals["in doubt"] > injections // 5


def test_the_harness_bites():
    """D03: tasks that are pushed in `tpc_finish` get lost, and the harness finds them."""
    totals = run("enqueue", "--naive", "--injections", 24, fails=True)
    assert totals["violations"] > 0
