"""``taskqueue worker``: runs tasks, and answers no browser."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.worker.exits import Exit
from collective.taskqueue.worker.exits import MEANINGS
from collective.taskqueue.worker.exits import WorkerError
from collective.taskqueue.worker.options import OPTIONS
from collective.taskqueue.worker.options import worker_options
from collective.taskqueue.worker.run import run_worker
from collective.taskqueue.worker.signals import EFFECTS
from collective.taskqueue.worker.signals import names_of
from typing import Any
import click
import logging


def _with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    # The last decorator comes first in the help.
    for name, option in reversed(OPTIONS.items()):
        add = click.option(
            f"--{name.replace('_', '-')}",
            name,
            metavar=option.metavar or None,
            is_flag=not option.metavar,
            multiple=option.multiple,
            help=option.help,
        )
        function = add(function)
    return function


def _epilog() -> str:
    signals = [f"{names_of(command)}: {effect}" for command, effect in EFFECTS.items()]
    codes = [f"{code.value}: {MEANINGS[code]}" for code in Exit]
    return "\n\n".join(["Signals:", *signals, "Exit codes:", *codes])


@click.command(epilog=_epilog())
@click.argument("ini", metavar="ZOPE.INI")
@click.argument("variables", metavar="[KEY=VALUE]...", nargs=-1)
@_with_options
@click.pass_context
def worker(ctx: click.Context, /, ini: str, variables: tuple[str, ...], **values: Any) -> None:
    """Run tasks, in a process that answers no browser.

    ZOPE.INI is the file that runwsgi reads, too; KEY=VALUE sets a variable of it.
    """
    try:
        ctx.exit(_run(ini, variables, values))
    except WorkerError as exc:
        if exc.code is Exit.USAGE:
            raise click.UsageError(str(exc)) from None
        click.echo(f"taskqueue worker: {exc}", err=True)
        ctx.exit(exc.code)


def _run(ini: str, variables: tuple[str, ...], values: dict[str, Any]) -> Exit:
    texts = {name: _texts(value) for name, value in values.items()}
    options = worker_options(ini, variables, texts)
    # Other commands keep our log to themselves; that of a worker is the one of zope.ini.
    log = logging.getLogger("collective.taskqueue")
    log.handlers.clear()
    log.propagate = True
    return run_worker(options)


def _texts(value: Any) -> list[str]:
    if isinstance(value, bool):
        return ["on"] if value else []
    if isinstance(value, tuple):
        return list(value)
    return [] if value is None else [value]
