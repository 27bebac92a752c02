"""Committed ⇔ queued, whatever kills the process at whatever moment; `make crash` does more."""

from __future__ import annotations

from crash import run
import pytest


@pytest.mark.parametrize(("database", "injections"), [("file_storage", 72), ("zeo", 40)])
def test_committed_if_and_only_if_queued(database, injections):
    """C33, D03: at every step of the protocol and at random moments."""
    totals = run("enqueue", "--database", database, "--injections", injections)
    assert totals["violations"] == 0
    assert totals["injections"] == injections
    # The crashes really hit where it hurts.
    assert totals["committed"] > injections
    assert totals["in doubt"] > injections // 5


def test_the_harness_bites():
    """D03: tasks that are pushed in `tpc_finish` get lost, and the harness finds them."""
    totals = run("enqueue", "--naive", "--injections", 24, fails=True)
    assert totals["violations"] > 0
