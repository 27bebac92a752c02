"""``taskqueue schema`` and ``migrate``: the version of the tables of SQL queues."""

from __future__ import annotations

from collective.taskqueue.cli import document
from collective.taskqueue.cli import table
from collective.taskqueue.cli.exits import CONFIGURATION
from collective.taskqueue.cli.exits import FOUND
from collective.taskqueue.cli.exits import Stop
from collective.taskqueue.cli.facts import facts_of
from collective.taskqueue.cli.facts import missing_tables
from collective.taskqueue.cli.queues import Queues
from collective.taskqueue.cli.queues import stopping
from collective.taskqueue.cli.table import Column
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.facts import Facts
import click


COLUMNS = (
    Column(title="QUEUE", least=8),
    Column(title="DATABASE", least=10),
    Column(title="FOUND", right=True),
    Column(title="NEEDED", right=True),
)

_QUEUE = click.option("--queue", metavar="NAME", help="Only this queue; default: all SQL queues.")


@click.command()
@_QUEUE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def schema(queues: Queues, queue: str | None, as_json: bool) -> None:
    """Show the version of the tables of SQL queues, and the one that this package needs."""
    found = _found(queues, queue)
    if as_json:
        items = [
            {
                "queue": settings.queue,
                "database": facts.product,
                "found": facts.tables,
                "needed": facts.tables_known,
            }
            for settings, facts in found
        ]
        document.show({"items": items})
    else:
        table.show(COLUMNS, [_row(*each) for each in found])
    if any(missing_tables(facts) for _, facts in found):
        raise click.exceptions.Exit(FOUND)


@click.command()
@_QUEUE
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def migrate(queues: Queues, queue: str | None, yes: bool) -> None:
    """Make the tables of SQL queues, or bring them to the version that is needed.

    Stop all processes of older versions first: they cannot use the new tables.
    """
    todo = []
    for settings, facts in _found(queues, queue):
        if facts.tables == facts.tables_known:
            click.echo(f"queue {settings.queue}: nothing to do, version {facts.tables}")
            continue
        if facts.tables is not None and facts.tables > (facts.tables_known or 0):
            raise Stop(f"queue {settings.queue}: {missing_tables(facts)}", CONFIGURATION)
        old = "no tables" if facts.tables is None else f"version {facts.tables}"
        click.echo(f"queue {settings.queue}: {old}, to become version {facts.tables_known}")
        todo.append((settings, facts))
    if todo and not yes and not click.confirm("Are all older processes stopped? Go on?"):
        click.echo("nothing was changed")
        raise click.exceptions.Exit(FOUND)
    for settings, facts in todo:
        with stopping(settings.queue):
            queues.opened(settings).admin.check()
        click.echo(f"queue {settings.queue}: version {facts.tables_known}")


def _found(queues: Queues, name: str | None) -> list[tuple[QueueSettings, Facts]]:
    found = []
    for settings in queues.named(name):
        if settings.type == "sql":
            with stopping(settings.queue):
                facts = facts_of(settings)
            if facts is not None:
                found.append((settings, facts))
    if not found:
        which = "there is no queue" if name is None else f"queue {name} is not"
        raise Stop(f"{which} of type sql; only these have tables", CONFIGURATION)
    return found


def _row(settings: QueueSettings, facts: Facts) -> list[str]:
    found = "none" if facts.tables is None else str(facts.tables)
    return [settings.queue, facts.product, found, str(facts.tables_known)]
