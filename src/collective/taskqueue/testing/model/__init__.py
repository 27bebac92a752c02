"""What every storage promises, as a machine that does what comes to its mind.

::

    class MyMachine(QueueMachine):
        def make_storage(self, clock, **settings):
            return MyStorage(QueueSettings(**settings), clock)

    def test_my_storage():
        run_state_machine_as_test(MyMachine)

The tests of `collective.taskqueue.testing.contract` ask for one promise at a time. The machine
mixes
them all, in long random sequences that Hypothesis shortens once one goes wrong, and compares
the storage after each step with a model of a queue that shares no code with any storage. Tasks
are added through real transactions with savepoints, and by batches of other processes.

`make_storage` returns an `ITaskStorage` for an empty queue each time it is called. What is said
there of its clock is true here: it may run, as long as a sequence takes less than `DRIFT`.
"""

from __future__ import annotations

import pytest


# Before they are imported, so that a failing assert of theirs shows its values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{part}" for part in ("expected", "checks", "acts", "machine"))
)

from collective.taskqueue.testing.model.machine import QueueMachine  # noqa: E402


__all__ = ["QueueMachine"]
