"""What ``--json`` prints: one document, with the words of the HTTP interface."""

from __future__ import annotations

from collective.taskqueue.task import ConsumerStatus
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import State
from collective.taskqueue.task import SUCCEEDED
from typing import Any
import click
import json


Json = dict[str, Any]


def show(document: Json) -> None:
    """Print a document."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def consumer(status: ConsumerStatus, queue: str) -> Json:
    """Return a consumer."""
    return {
        "queue": queue,
        "name": status.name,
        "host": status.host,
        "pid": status.pid,
        "age": status.age,
        "alive": status.alive,
        "running": list(status.running),
    }


def last_hour(ended: dict[State, int]) -> Json:
    """Return how many tasks finished in the last 60 minutes, and the share of failed runs."""
    tried = ended[SUCCEEDED] + ended[FAILED]
    counts = {str(state): count for state, count in ended.items()}
    return {**counts, "failure_rate": ended[FAILED] / tried if tried else None}
