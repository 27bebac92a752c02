"""What all tests need of the process that runs them."""

from collective.taskqueue.enqueue import outbox
from importlib.metadata import version
import pytest
import signal


# A shell that starts the suite in the background lets it ignore SIGINT, and every server that
# the suite starts would inherit that; some tests are about that signal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: What the packages of Plone 6.1 are warned of, as they were released before pkg_resources and
#: other parts of newer packages were deprecated. Our own modules must not be warned of anything.
OUTDATED = (
    "ignore::DeprecationWarning:(?!collective.taskqueue)",
    "ignore:pkg_resources is deprecated as an API:UserWarning",
)


def pytest_configure(config):
    if version("Products.CMFPlone").startswith("6.1."):
        for line in OUTDATED:
            config.addinivalue_line("filterwarnings", line)


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
