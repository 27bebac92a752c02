"""What the command line of this process says: it wins over the environment and zope.conf.

Not a variable of the environment: the section ``<environment>`` of zope.conf would replace it, and
the processes that a task starts would inherit it.
"""

from __future__ import annotations

from collections.abc import Sequence


#: What the sentence of an error begins with.
PLACE = "the option queue of the worker"

#: Names of queues, each with the limit of its consumer or None; None for what else decides.
Consumers = tuple[tuple[str, int | None], ...] | None


def choose_consumers(consumers: Sequence[tuple[str, int | None]] | None) -> None:
    """Let this process, which has not read zope.conf yet, start these consumers and no others."""
    global _consumers
    _consumers = None if consumers is None else tuple(consumers)


def chosen_consumers() -> Consumers:
    """Return what was chosen; None if nothing was."""
    return _consumers


_consumers: Consumers = None
