"""Command lines of workers, read by the parser of the command itself."""

from __future__ import annotations

from collections.abc import Sequence
from collective.taskqueue.cli.worker import worker
from collective.taskqueue.worker.options import worker_options
from collective.taskqueue.worker.options import WorkerOptions
from pathlib import Path


def options_of(words: Sequence[str], folder: Path) -> WorkerOptions:
    """Return what the words after `taskqueue worker` ask for; zope.ini is an empty file there."""
    ini = folder / "zope.ini"
    ini.touch()
    values = dict(worker.make_context("worker", [str(ini), *words[1:]]).params)
    variables = values.pop("variables")
    texts = {name: value if isinstance(value, tuple) else [] for name, value in values.items()}
    texts |= {name: [value] for name, value in values.items() if isinstance(value, str)}
    del texts["ini"]
    return worker_options(str(ini), variables, texts)
