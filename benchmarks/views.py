"""The views that the measured tasks call."""

from Products.Five.browser import BrowserView
from queue import SimpleQueue
import time


#: When each task on `Stamp` came to its first line, by the clock of `time.perf_counter`.
stamps: SimpleQueue[float] = SimpleQueue()


#: Seconds that `Wait` waits.
WAIT = 0.02


class Noop(BrowserView):
    """Does nothing."""

    def __call__(self) -> str:
        return "nothing"


class Read(BrowserView):
    """Reads all brains a few times: computes, and waits for nothing."""

    def __call__(self) -> str:
        catalog = self.context.portal_catalog
        for _ in range(10):
            brains = catalog.unrestrictedSearchResults(sort_on="id")
            titles = [brain.Title for brain in brains]
        return f"{len(titles)} titles"


class Wait(BrowserView):
    """Waits, as for a remote server."""

    def __call__(self) -> str:
        time.sleep(WAIT)
        return "waited"


class Stamp(BrowserView):
    """Tells when it was called."""

    def __call__(self) -> str:
        stamps.put(time.perf_counter())
        return "stamped"


class Write(BrowserView):
    """Reads ten brains and writes its content; the publisher commits."""

    def __call__(self) -> str:
        catalog = self.context.portal_catalog
        brains = catalog.unrestrictedSearchResults(portal_type="Document", sort_on="id")
        titles = [brain.Title for brain in brains[:10]]
        self.context.description = f"{', '.join(titles)} at {time.time()}"
        return f"{len(titles)} titles"
