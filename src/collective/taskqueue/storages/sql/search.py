"""Searches in a SQL queue: tasks that match a filter, in the order in which they were added.

candidates.py reads the tasks in the states and of the user of a filter. No other condition is in a
statement that has to find a portion of rows: the database would read on and on while none matches.
"""

from __future__ import annotations

from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.storages import codec
from collective.taskqueue.storages.search import cursor_at
from collective.taskqueue.storages.search import number_at
from collective.taskqueue.storages.search import SCAN
from collective.taskqueue.storages.sql.candidates import Candidates
from collective.taskqueue.storages.sql.damage import shown
from collective.taskqueue.storages.sql.rows import status_of
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.task import lowered
from collective.taskqueue.task import STATES
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskPage
from collective.taskqueue.task import TaskStatus
from sqlalchemy import Connection
from typing import Any


class Search:
    """See the module."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._candidates = Candidates(session)

    def page(self, filter: TaskFilter, cursor: str | None, size: int) -> TaskPage:
        """Return the next tasks that match; see `ITaskAdmin.search`."""
        last = number_at(cursor, self._session.settings.queue, filter)
        return self._session.read(lambda connection: self._page(connection, filter, last, size))

    def _page(self, connection: Connection, filter: TaskFilter, last: int, size: int) -> TaskPage:
        found: list[TaskStatus] = []
        place = self._session.settings.queue
        examined = 0
        for rows, upto, more in self._candidates.after(connection, filter, last):
            for row in rows:
                if examined >= SCAN or len(found) == size:
                    return TaskPage(tuple(found), cursor_at(last, place, filter))
                last, examined = row.number, examined + 1
                status = _matching(row, filter)
                if status is not None:
                    found.append(status)
            last, examined = upto, examined + more
            if more and examined >= SCAN:
                return TaskPage(tuple(found), cursor_at(last, place, filter))
        return TaskPage(tuple(found))


def _matching(row: Any, filter: TaskFilter) -> TaskStatus | None:
    """Return the status of a task that matches; None if it does not."""
    # The statement has compared the user. What costs least to compare comes first.
    if not row.fresh or (filter.states and row.state in STATES and row.state not in filter.states):
        return None
    if filter.reason is not None and lowered(filter.reason) not in lowered(shown(row.reason)):
        return None
    if filter.url is not None or filter.since is not None or filter.until is not None:
        try:
            task = codec.decode(shown(row.id), row.body)
        except TaskDecodeError:
            return None
        same = TaskFilter(url=filter.url, since=filter.since, until=filter.until)
        if not same.matches(task, row.state, ""):
            return None
    status = status_of(row, brief=True)
    # A state that is damaged is shown as failed.
    return status if not filter.states or status.state in filter.states else None
