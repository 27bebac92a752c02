"""``taskqueue schedules``: what is queued at times, and when."""

from __future__ import annotations

from collective.taskqueue.cli import document
from collective.taskqueue.cli import table
from collective.taskqueue.cli import words
from collective.taskqueue.cli.exits import Stop
from collective.taskqueue.cli.exits import UNKNOWN
from collective.taskqueue.cli.queues import Queues
from collective.taskqueue.cli.queues import stopping
from collective.taskqueue.cli.table import Column
from collective.taskqueue.errors import UnknownSchedule
from collective.taskqueue.schedules.listing import Schedules
from collective.taskqueue.schedules.listing import ScheduleStatus
from typing import Any
import click
import logging


logger = logging.getLogger("collective.taskqueue")

COLUMNS = (
    Column(title="NAME", least=8),
    Column(title="STATE", colours={"on": "green", "paused": "yellow", "off": "red"}),
    Column(title="WHEN", least=12),
    Column(title="NEXT", least=8),
    Column(title="LAST", least=8),
    Column(title="OUTCOME", colours={"succeeded": "green", "failed": "red"}),
    Column(title="URL", least=10),
)

RUN_COLUMNS = (
    Column(title="TICK", least=8),
    Column(title="STATE", colours={"succeeded": "green", "failed": "red"}),
    Column(title="TASK", least=12),
    Column(title="REASON", least=10),
)


@click.command()
@click.argument("name", required=False)
@click.option("--pause", is_flag=True, help="Let this schedule have no ticks, in all processes.")
@click.option("--resume", is_flag=True, help="Let it tick again, from now on.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def schedules(queues: Queues, name: str | None, pause: bool, resume: bool, as_json: bool) -> None:
    """List schedules: what is queued at times, and how the last tasks have ended.

    With the NAME of one, show its last runs, or pause or resume it. A schedule that an add-on
    registers is known to Zope only.
    """
    if pause and resume:
        raise click.UsageError("--pause and --resume exclude each other")
    if (pause or resume) and name is None:
        raise click.UsageError("which schedule? give its NAME")
    found = Schedules(queues.settings.schedules, lambda queue: _admin(queues, queue))
    if name is not None and name not in found.names():
        try:
            found.get(name)
        except UnknownSchedule as exc:
            raise Stop(str(exc), UNKNOWN) from None
    if name is not None and (pause or resume):
        _steer(found, name, pause)
        return
    items = [_status(found, each) for each in ([name] if name else found.names())]
    if as_json:
        document.show({"items": [_document(each) for each in items]})
    elif not items:
        click.echo("there is no schedule")
    else:
        table.show(COLUMNS, [_row(each) for each in items])
        if name is not None and items[0].runs:
            click.echo()
            table.show(RUN_COLUMNS, [_run(each) for each in items[0].runs])


def _steer(found: Schedules, name: str, pause: bool) -> None:
    with stopping(found.get(name).queue):
        if pause:
            found.pause(name)
        else:
            found.resume(name)
    logger.warning("schedule %s: %s", name, "paused" if pause else "resumed")
    click.echo(f"schedule {name}: {'paused' if pause else 'resumed'}")


def _admin(queues: Queues, queue: str) -> Any:
    [settings] = queues.named(queue)
    return queues.storage(settings).admin


def _status(found: Schedules, name: str) -> ScheduleStatus:
    with stopping(found.get(name).queue):
        return found.status(name)


def _state(status: ScheduleStatus) -> str:
    if not status.settings.enabled:
        return "off"
    return "paused" if status.paused else "on"


def _row(status: ScheduleStatus) -> list[str]:
    last = status.runs[0] if status.runs else None
    return [
        status.name,
        _state(status),
        status.explanation,
        words.moment(status.next),
        words.moment(status.last),
        ((last.state or "not kept") if last else ""),
        words.line(status.settings.url),
    ]


def _run(run: Any) -> list[str]:
    return [
        words.moment(run.tick),
        run.state or "not kept",
        run.task_id,
        words.line(run.reason),
    ]


def _document(status: ScheduleStatus) -> dict[str, Any]:
    settings = status.settings
    return {
        "name": status.name,
        "queue": settings.queue,
        "url": settings.url,
        "user": settings.user or None,
        "enabled": settings.enabled,
        "paused": status.paused,
        "explanation": status.explanation,
        "last": status.last,
        "next": status.next,
        "runs": [
            {"tick": run.tick, "id": run.task_id, "state": run.state, "reason": run.reason}
            for run in status.runs
        ],
    }
