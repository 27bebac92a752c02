"""The contract of every storage, as tests. Run them on your own storage:

::

    class TestMyStorage(StorageContract):
        @pytest.fixture
        def clock(self):
            return ManualClock()

        @pytest.fixture
        def make_storage(self, clock):
            return lambda **settings: MyStorage(QueueSettings(**settings), clock)

Each call of `make_storage` returns an `ITaskStorage` for a new, empty queue with the given
fields of `QueueSettings`. `clock` is the clock of that storage: `clock()` returns seconds
since the epoch, and `clock.advance(seconds)` lets seconds pass. If a storage reads the time
of a server, its test provides a clock that shifts the server's time.

Times are compared to within five seconds, so the clock may run. No test sleeps; a test that
waits gives up after `base.BOUND` seconds.

docs/appendix/behaviours.rst of the repository explains ids such as C30, its README the numbers of
guarantees.
"""

from __future__ import annotations

import pytest


# Before these modules are imported, so that a failing assert in them shows its values.
_PARTS = (
    *("base", "committing", "reserving", "finishing", "ahead", "keys", "steering", "reading"),
    *("keeping", "persons", "races", "slots", "searching", "ticking"),
)
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))

from collective.taskqueue.testing.contract.ahead import Ahead  # noqa: E402
from collective.taskqueue.testing.contract.base import ManualClock  # noqa: E402
from collective.taskqueue.testing.contract.committing import Committing  # noqa: E402
from collective.taskqueue.testing.contract.finishing import Finishing  # noqa: E402
from collective.taskqueue.testing.contract.identities import Identities  # noqa: E402
from collective.taskqueue.testing.contract.keeping import Keeping  # noqa: E402
from collective.taskqueue.testing.contract.keys import Keys  # noqa: E402
from collective.taskqueue.testing.contract.races import Races  # noqa: E402
from collective.taskqueue.testing.contract.reading import Reading  # noqa: E402
from collective.taskqueue.testing.contract.reserving import Reserving  # noqa: E402
from collective.taskqueue.testing.contract.searching import Searching  # noqa: E402
from collective.taskqueue.testing.contract.slots import Slots  # noqa: E402
from collective.taskqueue.testing.contract.steering import Steering  # noqa: E402
from collective.taskqueue.testing.contract.ticking import Ticking  # noqa: E402


__all__ = ["ManualClock", "StorageContract"]


class StorageContract(
    Committing,
    Reserving,
    Finishing,
    Ahead,
    Keys,
    Steering,
    Reading,
    Keeping,
    Identities,
    Races,
    Slots,
    Searching,
    Ticking,
):
    """All tests, see the module. A subclass named `Test…` provides `clock` and `make_storage`."""
