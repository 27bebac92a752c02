"""``taskqueue consumers``: the processes that run tasks."""

from __future__ import annotations

from collective.taskqueue.cli import document
from collective.taskqueue.cli import table
from collective.taskqueue.cli import words
from collective.taskqueue.cli.exits import Stop
from collective.taskqueue.cli.queues import exit_code
from collective.taskqueue.cli.queues import Queues
from collective.taskqueue.cli.table import Column
from collective.taskqueue.task import ConsumerStatus
import click


COLUMNS = (
    Column(title="QUEUE", least=8),
    Column(title="NAME", least=8),
    Column(title="STATE", colours={"dead": "red", "alive": "green"}),
    Column(title="SEEN", right=True),
    Column(title="HOST", least=8),
    Column(title="PID", right=True),
    Column(title="RUNS", least=10),
)


@click.command()
@click.option("--queue", metavar="NAME", help="Only those of this queue; default: of all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def consumers(queues: Queues, queue: str | None, as_json: bool) -> None:
    """List the consumers of the last hour: where they run, and what they do.

    SEEN is how long ago the storage has heard of a consumer; RUNS has the ids of its tasks.
    """
    found: list[tuple[str, ConsumerStatus]] = []
    answers = list(queues.each(queue, lambda storage: storage.admin.consumers()))
    for settings, item in answers:
        if not isinstance(item, Stop):
            found += [(settings.queue, each) for each in item]
    if as_json:
        document.show({"items": [document.consumer(each, name) for name, each in found]})
    elif found:
        table.show(COLUMNS, [_row(*each) for each in found])
    else:
        click.echo("no consumer was seen in the last hour")
    for _, item in answers:
        if isinstance(item, Stop):
            item.show()
    code = exit_code(answers)
    if code:
        raise click.exceptions.Exit(code)


def _row(queue: str, status: ConsumerStatus) -> list[str]:
    return [
        queue,
        words.line(status.name),
        "alive" if status.alive else "dead",
        f"{words.duration(status.age)} ago",
        words.line(status.host),
        str(status.pid or ""),
        " ".join(status.running),
    ]
