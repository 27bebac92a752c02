"""One worker process: loads Zope with its whole pipeline, and opens no port for browsers."""

from __future__ import annotations

from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.worker.exits import Exit
from collective.taskqueue.worker.exits import WorkerError
from collective.taskqueue.worker.logs import one_line
from collective.taskqueue.worker.loop import Loop
from collective.taskqueue.worker.options import CONSUMERS
from collective.taskqueue.worker.options import WorkerOptions
from configparser import Error as IniError
from paste.deploy import loadapp
from zope.configuration.exceptions import ConfigurationError as ZcmlError
import logging
import os
import ZConfig
import Zope2


logger = logging.getLogger("collective.taskqueue")


def run(options: WorkerOptions, loop: Loop) -> Exit:
    """Load Zope, run tasks until the loop ends, close the databases; return the exit code.

    Raises `WorkerError` if zope.ini or zope.conf cannot be used, or Zope cannot be loaded.
    """
    choose_consumers(options)
    loop.begin()
    try:
        load(options)
        return loop.run()
    finally:
        # A signal while Zope was loaded may have ended it right after the consumers started.
        loop.end()
        for database in Zope2.opened:
            database.close()


def choose_consumers(options: WorkerOptions) -> None:
    """Let Zope, which is not loaded yet, start the consumers of ``--queue``."""
    consumers = options.consumers()
    if consumers is not None:
        from collective.taskqueue import startup

        os.environ[CONSUMERS] = consumers
        # The section <environment> of zope.conf replaces that of the process.
        startup.choose({CONSUMERS: consumers})


def load(options: WorkerOptions) -> None:
    """Load Zope, which starts the consumers. Raises `WorkerError`."""
    try:
        loadapp(f"config:{options.ini}", global_conf=dict(options.variables))
    except (ConfigurationError, ZConfig.ConfigurationError, ZcmlError, IniError) as exc:
        raise WorkerError(one_line(exc), Exit.CONFIGURATION) from exc
    except Exception as exc:
        if type(exc) is LookupError:
            # Of paste.deploy: the file has no application.
            raise WorkerError(one_line(exc), Exit.CONFIGURATION) from exc
        logger.exception("worker: Zope could not be loaded, the process ends")
        message = f"Zope could not be loaded ({one_line(exc)}); its log has the traceback"
        raise WorkerError(message, Exit.UNAVAILABLE) from exc
