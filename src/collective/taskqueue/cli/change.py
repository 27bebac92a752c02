"""``taskqueue retry``, ``cancel`` and ``remove``: single tasks, or all that a filter matches."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.cli import words
from collective.taskqueue.cli.exits import FOUND
from collective.taskqueue.cli.exits import INTERRUPTED
from collective.taskqueue.cli.exits import Stop
from collective.taskqueue.cli.parameters import filter_of
from collective.taskqueue.cli.parameters import filters
from collective.taskqueue.cli.queues import Queues
from collective.taskqueue.cli.queues import stopping
from collective.taskqueue.cli.selection import change
from collective.taskqueue.cli.selection import changes
from collective.taskqueue.cli.selection import matching
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.task import Action
from collective.taskqueue.task import TaskFilter
from contextlib import contextmanager
from types import FrameType
from typing import Any
import click
import signal
import sys


#: What a line says of a changed task, and of many.
DONE: dict[Action, str] = {
    "retry": "queued again",
    "cancel": "cancelled",
    "remove": "removed",
}


def _command(action: Action, help: str) -> click.Command:
    def run(
        queues: Queues, task_ids: tuple[str, ...], all_: bool, yes: bool, **options: Any
    ) -> None:
        queue = options.pop("queue")
        given = [name for name, value in options.items() if value]
        selected = filter_of(options)
        if task_ids and (all_ or given):
            raise click.UsageError("name the tasks by their ids, or by filters and --all, not both")
        if task_ids:
            _change_some(queues, queue, action, task_ids)
        elif all_:
            _change_all(queues, queue, action, selected, yes)
        else:
            raise click.UsageError("name tasks by their ids, or by filters and --all")

    run.__doc__ = help
    for decorate in reversed(_PARAMETERS):
        run = decorate(run)
    return click.command(action)(run)


_PARAMETERS: tuple[Callable[[Any], Any], ...] = (
    click.argument("task_ids", metavar="[ID]...", nargs=-1),
    filters,
    click.option("--all", "all_", is_flag=True, help="All tasks that the filters match."),
    click.option("--yes", is_flag=True, help="Do not ask before all of them are changed."),
    click.pass_obj,
)

_HOW = """

    Name the tasks by their ids, or by filters and --all. The command then says how many there
    are, and asks. Ctrl-C stops it after the current page; repeat the command to go on.
"""

retry = _command("retry", f"Queue failed and cancelled tasks again; their history stays.{_HOW}")
cancel = _command("cancel", f"Cancel waiting tasks, and ask running ones to stop.{_HOW}")
remove = _command("remove", f"Delete the records of finished tasks.{_HOW}")


def _change_some(
    queues: Queues, queue: str | None, action: Action, task_ids: tuple[str, ...]
) -> None:
    failures: list[Stop] = []
    for task_id in task_ids:
        try:
            click.echo(_change_one(queues, queue, action, task_id))
        except Stop as exc:
            exc.show()
            failures.append(exc)
    codes = {failure.exit_code for failure in failures}
    if failures:
        # A code of its own only if it is true for all of them.
        same = len(failures) == len(task_ids) and len(codes) == 1
        raise click.exceptions.Exit(codes.pop() if same else FOUND)


def _change_one(queues: Queues, queue: str | None, action: Action, task_id: str) -> str:
    settings, status = queues.find(task_id, queue, brief=True)
    try:
        with stopping(settings.queue):
            state = change(queues.storage(settings), action, status.id)
    except ForbiddenTransition as exc:
        raise Stop(str(exc), FOUND) from None
    if state == "running":
        return f"task {status.id}: asked to stop"
    return f"task {status.id}: {DONE[action]}"


def _change_all(
    queues: Queues, queue: str | None, action: Action, filter: TaskFilter, yes: bool
) -> None:
    found = []
    for settings in queues.shared(queue):
        with stopping(settings.queue):
            storage = queues.storage(settings)
            found.append((settings.queue, storage, matching(storage, action, filter)))
    total = sum(len(ids) for _, _, ids in found)
    if not total:
        click.echo("no task matches")
        return
    click.echo(f"{words.number(total, 'task')} to {action}")
    if not yes and not click.confirm("Go on?"):
        click.echo("nothing was changed")
        raise click.exceptions.Exit(FOUND)
    tried = done = 0
    with _interrupts() as interrupted, _bar(total, action) as bar:
        for name, storage, ids in found:
            try:
                with stopping(name):
                    for count, changed in changes(storage, action, ids):
                        tried, done = tried + count, done + changed
                        bar(count)
                        if interrupted():
                            break
            except Stop as exc:
                text = f"{exc.message}; {done} done, {total - tried} left"
                raise Stop(text, exc.exit_code) from None
            if interrupted():
                break
    _tell(action, total, tried, done)


def _tell(action: Action, total: int, tried: int, done: int) -> None:
    text = f"{words.number(done, 'task')} {DONE[action]}"
    if tried > done:
        text += f", {tried - done} skipped: changed meanwhile, or a newer task of its key waits"
    if tried < total:
        text = f"interrupted: {text}, {total - tried} left; repeat the command to go on"
        raise Stop(text, INTERRUPTED)
    click.echo(text)


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C in the block end it after a page, so that it can say what is done.

    A second one interrupts at once.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _bar(total: int, action: Action) -> Iterator[Callable[[int], None]]:
    """Show the progress in a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    with click.progressbar(length=total, label=action, show_pos=True, file=sys.stderr) as bar:
        yield bar.update
