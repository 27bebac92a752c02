"""What all tests need of the process that runs them."""

from collective.taskqueue import unfinished
import pytest
import signal


# A shell that starts the suite in the background lets it ignore SIGINT, and every server that
# the suite starts would inherit that; some tests are about that signal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_unfinished(monkeypatch):
    """What other tests have left to be done in the background is theirs."""
    monkeypatch.setattr(unfinished, "_backlog", unfinished.Backlog())
