"""What ``--json`` prints: one document, with the words of the HTTP interface."""

from __future__ import annotations

from collective.taskqueue.services import shape
from collective.taskqueue.task import ConsumerStatus
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import State
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import TaskStatus
from typing import Any
import click
import json


Json = dict[str, Any]


def show(document: Json) -> None:
    """Print a document, in ASCII: nothing in it steers a terminal."""
    click.echo(json.dumps(document, indent=2))


class _Operator:
    """May do what a manager of tasks may do over HTTP: the caller can read the storage itself."""

    def may_steer(self, task: Any) -> bool:
        return True

    def may_look_inside(self, task: Any) -> bool:
        return True


_OPERATOR: Any = _Operator()

#: What the HTTP interface has and the command line has not: urls of itself, and payloads.
_LEFT_OUT = ("@id", "response", "payload", "payload_base64")


def summary(status: TaskStatus) -> Json:
    """Return the entry of a task in a list."""
    return _without(shape.summary(status, "", _OPERATOR))


def whole(status: TaskStatus) -> Json:
    """Return all that is known of a task but its payload, of which only the size is told."""
    found = _without(shape.whole(status, "", _OPERATOR))
    # The payload of a task that has succeeded is not kept.
    size = None if status.state == SUCCEEDED else len(status.task.payload)
    return {**found, "payload_size": size, "response_size": _response_size(status)}


def _response_size(status: TaskStatus) -> int | None:
    result = status.result
    return None if result is None else len(result.body)


def _without(found: Json) -> Json:
    return {name: value for name, value in found.items() if name not in _LEFT_OUT}


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
