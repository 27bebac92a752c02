"""Shows a mistake in the configuration as one line, without a traceback."""

from __future__ import annotations

from collective.taskqueue.errors import ConfigurationError
from types import TracebackType
import sys


def install() -> None:
    """Show an error of the configuration that ends the process as its sentence alone.

    Every other error is shown as before. A second call changes nothing.
    """
    previous = sys.excepthook
    if getattr(previous, "of_taskqueue", False):
        return

    def report(
        kind: type[BaseException], exc: BaseException, traceback: TracebackType | None
    ) -> None:
        if isinstance(exc, ConfigurationError) or getattr(exc, "of_taskqueue", False):
            # ZConfig ends the text of some errors with empty lines.
            print(f"configuration error: {str(exc).strip()}", file=sys.stderr)
        else:
            previous(kind, exc, traceback)

    report.of_taskqueue = True  # type: ignore[attr-defined]
    sys.excepthook = report
