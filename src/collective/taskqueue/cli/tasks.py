"""``taskqueue tasks``: a list of tasks."""

from __future__ import annotations

from collective.taskqueue.cli import document
from collective.taskqueue.cli import table
from collective.taskqueue.cli import words
from collective.taskqueue.cli.parameters import filter_of
from collective.taskqueue.cli.parameters import filters
from collective.taskqueue.cli.queues import Queues
from collective.taskqueue.cli.queues import stopping
from collective.taskqueue.cli.selection import tasks_of
from collective.taskqueue.cli.table import Column
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskStatus
from itertools import islice
from typing import Any
import click
import time


#: Colours of states.
COLOURS = {"failed": "red", "running": "green", "queued": "cyan", "cancelled": "yellow"}

COLUMNS = (
    Column(title="ID"),
    Column(title="STATE", colours=COLOURS),
    Column(title="AGE", right=True),
    Column(title="URL", least=20),
    Column(title="REASON", least=24, optional=True),
    Column(title="USER", least=8, optional=True),
    Column(title="QUEUE", least=8, optional=True),
    Column(title="ADDED", optional=True),
)


@click.command()
@filters
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Show at most so many tasks.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def tasks(queues: Queues, /, queue: str | None, limit: int, as_json: bool, **options: Any) -> None:
    """List tasks: of one queue or of all, of some states, a user, a time, a url, a reason.

    AGE counts since the task was added. A narrow terminal shows fewer columns.
    """
    found = _found(queues, queue, filter_of(options), limit + 1)
    more, shown = len(found) > limit, found[:limit]
    if as_json:
        document.show({"items": [document.summary(each) for each in shown], "more": more})
        return
    if shown:
        table.show(COLUMNS, [_row(each, time.time()) for each in shown])
    else:
        click.echo("no task matches")
    if more:
        click.echo(f"the first {limit}; --limit shows more", err=True)


def _found(queues: Queues, name: str | None, filter: TaskFilter, limit: int) -> list[TaskStatus]:
    found: list[TaskStatus] = []
    for settings in queues.shared(name):
        with stopping(settings.queue):
            found += islice(tasks_of(queues.storage(settings), filter), limit - len(found))
    return found


def _row(status: TaskStatus, now: float) -> list[str]:
    task = status.task
    return [
        status.id,
        status.state,
        words.duration(max(0.0, now - task.created)),
        words.line(task.url),
        words.line(status.reason),
        words.line(task.user.id) if task.user else "",
        task.queue,
        words.moment(task.created),
    ]
