"""``taskqueue add``: queues one task."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.cli import document
from collective.taskqueue.cli.exits import Stop
from collective.taskqueue.cli.exits import USAGE
from collective.taskqueue.cli.parameters import Duration
from collective.taskqueue.cli.parameters import Moment
from collective.taskqueue.cli.queues import Queues
from collective.taskqueue.cli.queues import stopping
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.enqueue.fields import Field
from collective.taskqueue.enqueue.fields import FIELDS
from collective.taskqueue.storages.protocols import Storage
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Task
from dataclasses import replace
from datetime import datetime
from datetime import UTC
from typing import Any
from typing import BinaryIO
from uuid import uuid4
import click
import logging
import re


logger = logging.getLogger("collective.taskqueue")

#: The type of an option for a field of each kind; a flag has none.
_TYPES: dict[str, Any] = {"seconds": Duration(), "moment": Moment(), "integer": int}

#: The options of `taskqueue.add`, without the one that is only another name of a second one.
OPTIONS = {name: field for name, field in FIELDS.items() if field.option and name != "countdown"}

_USER = re.compile(r"(/(?:.*/)?acl_users)/(.+)", re.DOTALL)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for field in reversed(OPTIONS.values()):
        command = _option(field)(command)
    return command


def _option(field: Field) -> Callable[[Any], Any]:
    name = f"--{field.name.replace('_', '-')}"
    text = field.description.replace("``", "")
    if field.kind == "flag":
        return click.option(name, is_flag=True, default=None, help=text)
    kind = click.Choice(field.choices) if field.choices else _TYPES.get(field.kind, str)
    label = None if field.choices else field.kind.upper()
    return click.option(name, type=kind, metavar=label, help=text)


@click.command()
@click.argument("url")
@click.option(
    "--queue", metavar="NAME", help="Default: the first one in the alphabet that is not local."
)
@click.option(
    "--user",
    metavar="FOLDER/ID",
    help="The user that the task runs as, such as /Plone/acl_users/jane; default: Anonymous.",
)
@click.option(
    "--method",
    type=click.Choice(FIELDS["method"].choices, case_sensitive=False),
    help=FIELDS["method"].description,
)
@click.option(
    "--param", "params", metavar="NAME=VALUE", multiple=True, help="Added to the query; repeatable."
)
@click.option(
    "--header", "headers", metavar="NAME:VALUE", multiple=True, help="A header; repeatable."
)
@click.option("--payload", type=click.File("rb"), metavar="FILE", help="The body; - is the input.")
@_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def add(queues: Queues, /, url: str, queue: str | None, as_json: bool, **options: Any) -> None:
    """Queue a task, and print its id.

    URL is a physical path from the root of Zope, such as /Plone/@@nightly, or an absolute url,
    which is called as a web hook.

    The command does not open the database. So it cannot know whether a user id was used before:
    the task of such a user fails.
    """
    settings = queues.shared(queue)[0]
    user = _user(options.pop("user"))
    task = replace(_task(settings, url, options), user=user)
    with stopping(settings.queue):
        _queue(queues.storage(settings), task)
    logger.info("task %s: added to queue %s", task.id, task.queue)
    if as_json:
        document.show({"id": task.id, "queue": task.queue})
    else:
        click.echo(task.id)


def _task(settings: QueueSettings, url: str, options: dict[str, Any]) -> Task:
    # Late: this loads much of Zope.
    from collective.taskqueue.enqueue.capture import make_task

    file: BinaryIO | None = options.pop("payload")
    params = [_pair("--param", text, "=") for text in options.pop("params")]
    headers = dict(_pair("--header", text, ":") for text in options.pop("headers"))
    if options["eta"] is not None:
        options["eta"] = datetime.fromtimestamp(options["eta"], UTC)
    if file is not None:
        options["payload"] = file.read()
    try:
        return make_task(
            settings,
            url,
            options.pop("method"),
            params or None,
            headers or None,
            **options,
        )
    except ValueError as exc:
        raise Stop(str(exc), USAGE) from None


def _pair(option: str, text: str, sign: str) -> tuple[str, str]:
    name, found, value = text.partition(sign)
    if not name or not found:
        raise click.UsageError(f"{option} is NAME{sign}VALUE, not {text!r}")
    return name, value.strip() if sign == ":" else value


def _user(text: str | None) -> Identity | None:
    if text is None:
        return None
    found = _USER.fullmatch(text)
    if found is None:
        raise click.UsageError(
            f"--user is the path of a user folder and an id, such as /Plone/acl_users/jane, not"
            f" {text!r}"
        )
    return Identity(found[1], found[2])


def _queue(storage: Storage, task: Task) -> None:
    # If this process dies in between, a consumer records the task as failed after an hour.
    batch = str(uuid4())
    storage.stage(batch, (task,))
    storage.promote(batch, tasks=(task,))
