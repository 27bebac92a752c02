"""The exit codes of a worker; those that the other commands have, too, are the same."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Why a worker has ended; `MEANINGS` says it in words."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    UNAVAILABLE = 4
    REPLACE = 7
    LOST = 8


MEANINGS = {
    Exit.DONE: "It was told to stop, or with --burst its queues are empty.",
    Exit.FAILED: "With --burst: at least one task has failed in this worker.",
    Exit.USAGE: "An option is wrong.",
    Exit.CONFIGURATION: "zope.ini or zope.conf cannot be used; one sentence says why.",
    Exit.UNAVAILABLE: "Zope could not be loaded; its log has the traceback.",
    Exit.REPLACE: "It is over --max-tasks or --max-memory, or was told by HUP: start another one.",
    Exit.LOST: "A process of --processes was killed while it had to end, or with --burst at all.",
}


class WorkerError(Exception):
    """Ends a worker: the text is one sentence for a person, `code` is for the shell."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code
