"""Runs a worker with its options: one process, or a supervisor and several."""

from __future__ import annotations

from collective.taskqueue.worker import notifier
from collective.taskqueue.worker.channel import Channel
from collective.taskqueue.worker.exits import Exit
from collective.taskqueue.worker.exits import WorkerError
from collective.taskqueue.worker.logs import configure_logging
from collective.taskqueue.worker.notifier import Notifier
from collective.taskqueue.worker.options import WorkerOptions
from collective.taskqueue.worker.probe import serve_probes
import logging
import os
import sys


logger = logging.getLogger("collective.taskqueue")


def run_worker(options: WorkerOptions) -> Exit:
    """Run a worker until it ends; return its exit code. Raises `WorkerError`."""
    # Imported only here: a supervisor stays small.
    if options.processes > 1:
        from collective.taskqueue.worker.supervisor import Supervisor

        return Supervisor(options, notifier_of_process()).run()
    from collective.taskqueue.worker.loop import Loop
    from collective.taskqueue.worker.process import run

    configure_logging(options)
    loop = Loop(options, notifier_of_process())
    serve_probes(options, loop.health)
    return run(options, loop)


def run_child(channel: Channel) -> Exit:
    """Run a worker process for the supervisor at the other end of the channel."""
    from collective.taskqueue.worker.loop import Loop
    from collective.taskqueue.worker.process import run

    options = channel.options()
    try:
        configure_logging(options)
        loop = Loop(options, Notifier({}), channel)
        loop.begin()
        channel.listen(loop.told)
        return run(options, loop)
    except WorkerError as exc:
        # The log may be what could not be set up.
        print(f"taskqueue worker: {exc}", file=sys.stderr)
        logger.error("worker: %s, the process ends", exc)
        return exc.code


def notifier_of_process() -> Notifier:
    """Return the notifier of this process; what tasks start does not inherit it."""
    found = Notifier(os.environ)
    notifier.forget(os.environ)
    return found
