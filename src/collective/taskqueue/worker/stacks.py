"""What each thread of this process does right now."""

from __future__ import annotations

import logging
import sys
import threading
import traceback


logger = logging.getLogger("collective.taskqueue")


def log_stacks() -> None:
    """Write the stacks of all threads to the log, as one record."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    texts = []
    for ident, frame in sys._current_frames().items():
        stack = "".join(traceback.format_stack(frame))
        texts.append(f"Thread {names.get(ident, ident)}:\n{stack}")
    logger.warning("worker: stacks of %d threads\n%s", len(texts), "\n".join(texts))
