"""What every storage promises, as tests: run them on a storage of your own.

::

    class TestMyStorage(StorageContract):
        @pytest.fixture
        def clock(self):
            return ManualClock()

        @pytest.fixture
        def make_storage(self, clock):
            return lambda **settings: MyStorage(QueueSettings(**settings), clock)

`make_storage` returns an `ITaskStorage` for an empty queue of its own each time it is
called, with the given fields of `QueueSettings`. `clock` is the clock of that storage:
called, it returns seconds since the epoch, and `clock.advance(seconds)` makes it later. A
storage that asks a server for the time brings a clock that shifts the server's time.

Times are only compared to within five seconds, so the clock may run. Nothing sleeps; a
test that waits gives up after `base.BOUND` seconds.

Ids such as C30 are explained in docs/behaviours.rst of the repository, numbers of
guarantees in its README.
"""

from __future__ import annotations

import pytest


# Before they are imported, so that a failing assert of theirs shows its values.
_PARTS = (
    *("base", "committing", "reserving", "finishing", "ahead", "keys", "steering", "looking"),
    *("keeping", "persons", "races"),
)
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))

from collective.taskqueue.testing.contract.ahead import Ahead  # noqa: E402
from collective.taskqueue.testing.contract.base import ManualClock  # noqa: E402
from collective.taskqueue.testing.contract.committing import Committing  # noqa: E402
from collective.taskqueue.testing.contract.finishing import Finishing  # noqa: E402
from collective.taskqueue.testing.contract.keeping import Keeping  # noqa: E402
from collective.taskqueue.testing.contract.keys import Keys  # noqa: E402
from collective.taskqueue.testing.contract.looking import Looking  # noqa: E402
from collective.taskqueue.testing.contract.persons import Persons  # noqa: E402
from collective.taskqueue.testing.contract.races import Races  # noqa: E402
from collective.taskqueue.testing.contract.reserving import Reserving  # noqa: E402
from collective.taskqueue.testing.contract.steering import Steering  # noqa: E402


__all__ = ["ManualClock", "StorageContract"]


class StorageContract(
    Committing, Reserving, Finishing, Ahead, Keys, Steering, Looking, Keeping, Persons, Races
):
    """See the module. A subclass, named `Test…`, provides `clock` and `make_storage`."""
