"""The entry point of runwsgi: ``[server:worker] use = egg:collective.taskqueue#worker``."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.config.command import choose_consumers
from collective.taskqueue.worker.exits import WorkerError
from collective.taskqueue.worker.loop import Loop
from collective.taskqueue.worker.options import OPTIONS
from collective.taskqueue.worker.options import worker_options
from collective.taskqueue.worker.probe import serve_probes
from collective.taskqueue.worker.run import notifier_of_process
from collective.taskqueue.worker.run import run_worker
from typing import Any


def server_factory(global_conf: dict[str, str], **settings: str) -> Callable[[Any], None]:
    """Return the server that runwsgi calls with the application; called before Zope is loaded.

    The settings are the options of ``taskqueue worker``. With `processes`, a supervisor runs
    here until it ends, and this function does not return.
    """
    texts = {name.replace("-", "_"): value for name, value in settings.items()}
    found = {
        name: value.split() if name in OPTIONS and OPTIONS[name].multiple else [value]
        for name, value in texts.items()
    }
    variables = {k: v for k, v in global_conf.items() if k not in ("__file__", "here")}
    try:
        options = worker_options(global_conf["__file__"], variables, found)
        if options.processes > 1:
            # Its processes load Zope; runwsgi would load it here, next.
            raise SystemExit(int(run_worker(options)))
        choose_consumers(options.consumers())
        loop = Loop(options, notifier_of_process())
        serve_probes(options, loop.health)
    except WorkerError as exc:
        raise SystemExit(f"taskqueue worker: {exc}") from None
    loop.begin()

    def serve(application: object) -> None:
        try:
            raise SystemExit(int(loop.run()))
        except WorkerError as exc:
            raise SystemExit(f"taskqueue worker: {exc}") from None
        finally:
            # Then runwsgi closes the databases.
            loop.end()

    return serve
