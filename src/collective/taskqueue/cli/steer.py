"""``taskqueue pause``, ``resume``, ``purge`` and ``reset``: what is done to a queue."""

from __future__ import annotations

from collective.taskqueue.cli import words
from collective.taskqueue.cli.exits import FOUND
from collective.taskqueue.cli.queues import Queues
from collective.taskqueue.cli.queues import stopping
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import SUCCEEDED
from typing import TYPE_CHECKING
import click
import logging


if TYPE_CHECKING:
    from collective.taskqueue.storages.protocols import Admin


logger = logging.getLogger("collective.taskqueue")

_YES = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command()
@click.argument("queue")
@click.pass_obj
def pause(queues: Queues, queue: str) -> None:
    """Start no task of a queue until it is resumed; running tasks finish as usual."""
    with stopping(queue):
        _admin(queues, queue).pause()
    logger.warning("queue %s: paused, tasks wait", queue)
    click.echo(f"queue {queue}: paused; taskqueue resume {queue} starts its tasks again")


@click.command()
@click.argument("queue")
@click.pass_obj
def resume(queues: Queues, queue: str) -> None:
    """Start the tasks of a paused queue again."""
    with stopping(queue):
        _admin(queues, queue).resume()
    logger.info("queue %s: resumed", queue)
    click.echo(f"queue {queue}: resumed")


@click.command()
@click.argument("queue")
@click.option(
    "--state",
    type=click.Choice(FINISHED),
    default=SUCCEEDED,
    show_default=True,
    help="Delete the records of tasks in this state.",
)
@_YES
@click.pass_obj
def purge(queues: Queues, queue: str, state: State, yes: bool) -> None:
    """Delete the records of all tasks of a queue that have finished in one state."""
    with stopping(queue):
        admin = _admin(queues, queue)
        _confirm(f"Delete {_tasks(admin.counts()[state], state)} of queue {queue}?", yes)
        count = admin.purge(state)
    logger.info("queue %s: purged, %d %s tasks forgotten", queue, count, state)
    click.echo(f"queue {queue}: {_tasks(count, state)} deleted")


@click.command()
@click.argument("queue")
@_YES
@click.pass_obj
def reset(queues: Queues, queue: str, yes: bool) -> None:
    """Delete all waiting and scheduled tasks of a queue; running ones finish as usual.

    With --log, the id of each task that is dropped is in the log.
    """
    with stopping(queue):
        admin = _admin(queues, queue)
        counts = admin.counts()
        waiting = _tasks(counts[QUEUED] + counts[SCHEDULED], "waiting")
        _confirm(f"Delete {waiting} of queue {queue}? They will never run.", yes)
        count = admin.clear()
    logger.warning("queue %s: reset, %d waiting tasks dropped", queue, count)
    click.echo(f"queue {queue}: {_tasks(count, 'waiting')} deleted")


def _admin(queues: Queues, name: str) -> Admin:
    [settings] = queues.named(name)
    return queues.storage(settings).admin


def _tasks(count: int, state: str) -> str:
    return words.number(count, f"{state} task")


def _confirm(question: str, yes: bool) -> None:
    if not yes and not click.confirm(question):
        click.echo("nothing was changed")
        raise click.exceptions.Exit(FOUND)
