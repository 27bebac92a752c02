"""Log and publish the changes that a storage made besides those its caller asked for."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collective.taskqueue.task import FINISHED
from typing import Any
import logging


logger = logging.getLogger("collective.taskqueue")

#: For each event: its kind, the id of the task, and a detail such as the reason.
News = list[tuple[Any, str, str]]


def tell(news: Iterable[tuple[Any, str, str]], notify: Callable[[str, str], None]) -> None:
    """Log each event; call `notify` for final states. Never call this under a lock."""
    for kind, task_id, detail in news:
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
    "stranger": lambda entry, detail: logger.error(
        "%s: no task of this version, put aside into the list %s", entry, detail
    ),
    "broken": lambda entry, detail: logger.error("%s: %s", entry, detail),
    "moved": lambda key, detail: logger.error(
        "key %s: of a kind that is not ours, moved to %s", key, detail
    ),
    "recovered": lambda task_id, detail: logger.warning(
        "task %s: lease of consumer %s ended, back to the front", task_id, detail
    ),
}
