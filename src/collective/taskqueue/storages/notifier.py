"""Log and publish the changes that a storage made besides those its caller asked for."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import State
from typing import Any
import logging


logger = logging.getLogger("collective.taskqueue")

#: For each event: its kind, the id of the task, and a detail such as the reason.
Notices = list[tuple[Any, str, str]]


def publish(notices: Iterable[tuple[Any, str, str]], notify: Callable[[State, str], None]) -> None:
    """Log each event; call `notify` for final states. Never call this under a lock."""
    for kind, task_id, detail in notices:
        _LOG[kind](task_id, detail)
        if kind in FINISHED:
            notify(kind, task_id)


_LOG: dict[str, Callable[[str, str], None]] = {
    "known": lambda task_id, detail: logger.warning(
        "task %s: is there already, not added again", task_id
    ),
    "skipped": lambda task_id, detail: logger.info(
        "task %s: its key already waits as %s, skipped", task_id, detail
    ),
    "cancelled": lambda task_id, detail: logger.info("task %s: %s, cancelled", task_id, detail),
    "failed": lambda task_id, detail: logger.error("task %s: %s, failed", task_id, detail),
    "foreign": lambda entry, detail: logger.error(
        "%s: no task of this version, moved to the list %s", entry, detail
    ),
    "broken": lambda entry, detail: logger.error("%s: %s", entry, detail),
    "moved": lambda key, detail: logger.error(
        "key %s: of another type than this queue uses, moved to %s", key, detail
    ),
    "recovered": lambda task_id, detail: logger.warning(
        "task %s: lease of consumer %s expired, back to the front", task_id, detail
    ),
}
