"""``taskqueue stats``: all queues at a glance."""

from __future__ import annotations

from collective.taskqueue.cli import document
from collective.taskqueue.cli import table
from collective.taskqueue.cli import words
from collective.taskqueue.cli.exits import Stop
from collective.taskqueue.cli.queues import exit_code
from collective.taskqueue.cli.queues import Queues
from collective.taskqueue.cli.table import Column
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import STATES
from contextlib import suppress
from typing import Any
from typing import TYPE_CHECKING
import click
import time


if TYPE_CHECKING:
    from collective.taskqueue.storages.protocols import Storage


#: Seconds between two looks of ``--watch``.
INTERVAL = 2.0

COLUMNS = (
    Column(title="QUEUE", least=8),
    *(Column(title=state.upper(), right=True) for state in STATES),
    Column(title="OLDEST", right=True),
    Column(title="CONSUMERS", right=True, optional=True),
    Column(title="LAST HOUR", optional=True),
    Column(title="TYPE", optional=True),
)


@click.command()
@click.option("--queue", metavar="NAME", help="Only this queue.")
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def stats(queues: Queues, queue: str | None, watch: bool, as_json: bool) -> None:
    """Show how many tasks each queue has, and how it is doing.

    OLDEST is how long the task that runs next has waited. A narrow terminal shows fewer columns.
    """
    if watch and as_json:
        raise click.UsageError("--watch is for people, --json for programs: use one of them")
    show = _document if as_json else _table
    if watch:
        _watch(queues, queue)
        return
    found = _found(queues, queue)
    show(found)
    code = exit_code(found)
    if code:
        raise click.exceptions.Exit(code)


def _watch(queues: Queues, name: str | None) -> None:
    # Ctrl-C is the way to end it.
    with suppress(KeyboardInterrupt):
        while True:
            found = _found(queues, name)
            click.clear()
            click.echo(f"{words.moment(time.time())}, every {words.duration(INTERVAL)}\n")
            _table(found)
            time.sleep(INTERVAL)


def _found(queues: Queues, name: str | None) -> list[tuple[Any, Any]]:
    return list(queues.each(name, _numbers))


def _numbers(storage: Storage) -> dict[str, Any]:
    admin = storage.admin
    next_one = admin.tasks(QUEUED, size=1)
    since = next_one[0].time_of(QUEUED) if next_one else None
    return {
        "counts": admin.counts(),
        "paused": admin.paused(),
        "oldest": None if since is None else max(0.0, time.time() - since),
        "last_hour": admin.throughput(),
        "consumers": admin.consumers(),
    }


def _document(found: list[tuple[Any, Any]]) -> None:
    items = []
    for settings, item in found:
        brief = {"name": settings.queue, "type": settings.type}
        if isinstance(item, Stop):
            items.append({**brief, "available": False, "reason": item.message})
            continue
        consumers = [document.consumer(each, settings.queue) for each in item["consumers"]]
        last_hour = document.last_hour(item["last_hour"])
        more = {"last_hour": last_hour, "consumers": consumers}
        items.append({**brief, "available": True, **item, **more})
    document.show({"items": items})


def _table(found: list[tuple[Any, Any]]) -> None:
    rows, notes = [], []
    for settings, item in found:
        if isinstance(item, Stop):
            notes.append(item.message)
            continue
        rows.append(_row(settings, item))
        notes += _notes(settings.queue, item)
    if rows:
        table.show(COLUMNS, rows)
    for note in notes:
        click.secho(note, fg="yellow")


def _row(settings: Any, item: dict[str, Any]) -> list[str]:
    ended = item["last_hour"]
    return [
        settings.queue,
        *(str(item["counts"][state]) for state in STATES),
        words.duration(item["oldest"]),
        str(sum(each.alive for each in item["consumers"])),
        f"{ended['succeeded']} succeeded, {ended['failed']} failed",
        settings.type,
    ]


def _notes(queue: str, item: dict[str, Any]) -> list[str]:
    notes = []
    waiting = item["counts"][QUEUED]
    if item["paused"]:
        notes.append(f"queue {queue}: paused; taskqueue resume {queue} starts its tasks again")
    if waiting and not any(each.alive for each in item["consumers"]):
        notes.append(f"queue {queue}: {words.number(waiting, 'task')} queued, and no consumer runs")
    return notes
