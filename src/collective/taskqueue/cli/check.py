"""``taskqueue check``: whether all is as it should be."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.cli import document
from collective.taskqueue.cli.exits import FOUND
from collective.taskqueue.cli.exits import Stop
from collective.taskqueue.cli.facts import facts_of
from collective.taskqueue.cli.facts import missing_tables
from collective.taskqueue.cli.installations import strangers
from collective.taskqueue.cli.queues import Queues
from collective.taskqueue.cli.queues import stopping
from collective.taskqueue.cli.words import duration
from collective.taskqueue.cli.words import number
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.facts import Facts
from collective.taskqueue.storages.protocols import Admin
from collective.taskqueue.task import QUEUED
from contextlib import contextmanager
from pathlib import Path
from typing import Any
import click
import logging


logger = logging.getLogger("collective.taskqueue")

#: Seconds by which the clocks of this machine and of a storage may differ.
SKEW = 2.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def check(queues: Queues, as_json: bool) -> None:
    """Check the configuration and every storage, and change nothing.

    It prints one sentence for each thing that is wrong, and then ends with exit code 1.
    """
    notes: list[str] = []
    faults: list[str] = []
    try:
        found = queues.named(None)
    except Stop as exc:
        found = []
        faults.append(exc.message)
    for settings in found:
        try:
            with stopping(settings.queue):
                faults += _checked(queues, settings, notes)
        except Stop as exc:
            faults.append(exc.message)
    if as_json:
        document.show({"ok": not faults, "faults": faults, "notes": notes})
    else:
        _show(notes, faults)
    if faults:
        raise click.exceptions.Exit(FOUND)


def _show(notes: list[str], faults: list[str]) -> None:
    for note in notes:
        click.echo(note)
    for fault in faults:
        click.secho(fault, fg="red")
    if not faults:
        click.secho("all is as it should be", fg="green")


def _checked(queues: Queues, settings: QueueSettings, notes: list[str]) -> Iterator[str]:
    """Yield what is wrong with a queue, and append to `notes` what is good to know."""
    name = settings.queue
    served = any(server.queue == name for server in queues.settings.servers)
    if settings.type == "local":
        notes.append(f"queue {name}: local, only the process that serves it can look into it")
        if not served:
            yield (
                f"queue {name}: local, and there is no <taskqueue-server> for it: its tasks do not"
                " run"
            )
        return
    facts = facts_of(settings)
    if facts is not None:
        notes.append(_note(name, facts))
        yield from (f"queue {name}: {fault}" for fault in faults_of(facts))
        if facts.faults or missing_tables(facts) is not None:
            # It would fail for that reason, or make its tables.
            return
    admin = queues.opened(settings).admin
    with _warnings() as said:
        admin.check()
    yield from said
    yield from (f"queue {name}: {fault}" for fault in _life(queues.settings.source, admin))


def _note(name: str, facts: Facts) -> str:
    clock = f"its clock differs by {duration(abs(facts.skew))}"
    return f"queue {name}: {', '.join((facts.product, *facts.notes, clock))}"


def faults_of(facts: Facts) -> Iterator[str]:
    """Yield what is wrong with a storage."""
    yield from facts.faults
    if abs(facts.skew) > SKEW:
        side = "behind" if facts.skew > 0 else "ahead of"
        yield (
            f"the clock of this machine is {duration(abs(facts.skew))} {side} that of its storage;"
            " synchronise both"
        )
    tables = missing_tables(facts)
    if tables is not None:
        yield tables


def _life(source: Path | None, admin: Admin) -> Iterator[str]:
    consumers = admin.consumers()
    waiting = admin.counts()[QUEUED]
    if waiting and not any(each.alive for each in consumers):
        yield f"{number(waiting, 'task')} queued, and no consumer runs"
    for consumer, path in strangers(source, consumers):
        yield (
            f"its consumer {consumer} is of {path}, which has another database; give each"
            " installation a queue of its own"
        )


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what a storage logs of what is not as it should be."""
    said: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: Any) -> None:
            said.append(record.getMessage())

    collector = Collector(logging.WARNING)
    logger.addHandler(collector)
    try:
        yield said
    finally:
        logger.removeHandler(collector)
