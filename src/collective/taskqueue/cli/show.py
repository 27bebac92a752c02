"""``taskqueue show``: all that is known of one task."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.cli import document
from collective.taskqueue.cli import words
from collective.taskqueue.cli.queues import Queues
from collective.taskqueue.services.shape import shown_header
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import TaskStatus
import click
import time


@click.command()
@click.argument("task_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def show(queues: Queues, task_id: str, as_json: bool) -> None:
    """Show all that is known of a task, but no secrets.

    Of the payload and of the response it shows the size, of a header that may be secret the name.
    """
    _, status = queues.find(task_id)
    if as_json:
        document.show(document.whole(status))
        return
    pairs = [*_pairs(status, time.time())]
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        if value:
            click.echo(f"{click.style(f'{name:{width}}', bold=True)}  {value}")
    for attempt in status.attempts:
        if attempt.error:
            click.echo(f"\ntraceback of attempt {attempt.number}:")
            for line in attempt.error.splitlines():
                # Blanks in front are the form of a traceback.
                blanks = " " * (len(line) - len(line.lstrip()))
                click.echo(f"  {blanks}{words.line(line)}")


def _pairs(status: TaskStatus, now: float) -> Iterator[tuple[str, str]]:
    task = status.task
    yield "id", status.id
    yield "queue", task.queue
    yield "state", status.state
    yield "reason", words.line(status.reason)
    yield "url", f"{task.method} {words.line(task.url)}"
    yield "description", words.line(task.description)
    yield "user", words.line(f"{task.user.folder}/{task.user.id}") if task.user else "Anonymous"
    yield "added", f"{words.moment(task.created)}, {words.duration(now - task.created)} ago"
    yield "due", words.moment(status.due)
    yield "key", words.line(task.key or "")
    yield "timeout", words.duration(task.timeout)
    yield "attempts", f"{status.attempts_made} of {task.max_attempts}"
    yield "consumer", words.line(status.consumer or "")
    if status.cancel_requested:
        yield "cancel", "its cancellation was requested"
    if status.progress is not None:
        done, total = status.progress.done, status.progress.total
        of = "" if total is None else f" of {total:g}"
        yield "progress", words.line(f"{done:g}{of} {status.progress.message}")
    for name, value in task.headers:
        yield "header", words.line(f"{name}: {shown_header(name, value)}")
    yield from _sizes(status)
    for state, when in status.changes:
        yield "change", f"{words.moment(when)}  {state}"
    for attempt in status.attempts:
        yield f"attempt {attempt.number}", _attempt(attempt)


def _sizes(status: TaskStatus) -> Iterator[tuple[str, str]]:
    if status.state == SUCCEEDED:
        yield "payload", "not kept after a success"
    elif status.task.payload:
        yield "payload", words.number(len(status.task.payload), "byte")
    if status.result is not None:
        yield "response", f"status {status.status}, {words.number(len(status.body), 'byte')}"


def _attempt(attempt: AttemptRecord) -> str:
    parts = [
        words.moment(attempt.started),
        words.duration(attempt.seconds),
        f"status {attempt.status}" if attempt.status else "no status",
        words.line(attempt.reason),
        f"by {words.line(attempt.consumer)}",
    ]
    return ", ".join(part for part in parts if part)
