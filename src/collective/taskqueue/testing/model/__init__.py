"""The contract of every storage, as a state machine that takes random steps.

::

    class MyMachine(QueueMachine):
        def make_storage(self, clock, **settings):
            return MyStorage(QueueSettings(**settings), clock)

    def test_my_storage():
        run_state_machine_as_test(MyMachine)

The tests of `collective.taskqueue.testing.contract` check one promise at a time. The machine
mixes all of them in long random sequences; if one fails, Hypothesis shortens it. After each step,
the machine compares the storage with a model of a queue that shares no code with any storage.
Tasks are added through real transactions with savepoints, and by batches of other processes.

`make_storage` returns an `ITaskStorage` for an empty queue each time it is called. `contract`
describes its clock: the clock may run, as long as a sequence takes less than `DRIFT` seconds.
"""

from __future__ import annotations

import pytest


# Before these modules are imported, so that a failing assert in them shows its values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{part}" for part in ("expected", "checks", "acts", "machine"))
)

from collective.taskqueue.testing.model.machine import QueueMachine  # noqa: E402


__all__ = ["QueueMachine"]
