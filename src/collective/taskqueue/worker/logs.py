"""The log of a worker: the one that its zope.ini asks for."""

from __future__ import annotations

from collective.taskqueue.worker.exits import Exit
from collective.taskqueue.worker.exits import WorkerError
from collective.taskqueue.worker.options import WorkerOptions
from Zope2.Startup.serve import setup_logging


def configure_logging(options: WorkerOptions) -> None:
    """Set up the log as zope.ini says, without loading Zope. Raises `WorkerError`."""
    try:
        setup_logging(options.ini, global_conf=dict(options.variables))
    except Exception as exc:
        message = f"the log that {options.ini} asks for cannot be set up: {one_line(exc)}"
        raise WorkerError(message, Exit.CONFIGURATION) from exc


def one_line(exc: Exception) -> str:
    """Return the text of an exception as one line."""
    return " ".join(str(exc).split()) or type(exc).__name__
