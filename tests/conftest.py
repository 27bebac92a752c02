"""What all tests need of the process that runs them."""

from collective.taskqueue.enqueue import outbox
import pytest
import signal


# A shell that starts the suite in the background lets it ignore SIGINT, and every server that
# the suite starts would inherit that; some tests are about that signal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests that share a server or a site stay in one worker."""
    from scheduling import Scheduler

    config.option.loadscopereorder = False
    return Scheduler(config, log)


@pytest.fixture(autouse=True)
def nothing_unfinished(monkeypatch):
    """Background work that a test leaves behind is dropped after the test."""
    backlog = outbox.Relay()
    monkeypatch.setattr(outbox, "_relay", backlog)
    yield
    backlog._jobs.clear()
