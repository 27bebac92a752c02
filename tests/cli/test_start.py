"""A command starts quickly because it imports little: neither Zope nor another storage."""

from collective.taskqueue.cli.main import COMMANDS
import pytest
import subprocess
import sys


CODE = """\
import sys
from collective.taskqueue.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as exc:
    assert exc.code in (0, None), exc.code
print(*sys.modules, file=sys.stderr)
"""


def loaded(*words, **more):
    """Return the modules that a call of the command line has loaded."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        **more,
    )
    return set(done.stderr.split())


@pytest.mark.parametrize("kind", ["redis-server", "sqlite"])
@pytest.mark.parametrize("command", ["stats", "tasks", "consumers", "retry"])
def test_a_command(setup, kind, command):
    words = ("--all", "--yes") if command == "retry" else ()
    found = loaded(command, *words, cwd=setup.folder, env=setup.environ)
    assert ("redis" in found) == (kind == "redis-server")
    assert ("sqlalchemy" in found) == (kind == "sqlite")
    assert not found & {"Products", "plone", "OFS", "Zope2.App.startup", "wcwidth"}
    assert "collective.taskqueue.enqueue.capture" not in found


def test_help():
    """The list of commands and the completion of their names import none of them."""
    found = loaded("--help")
    assert not found & {"redis", "sqlalchemy", "Zope2", "ZODB"}
    own = {f"collective.taskqueue.cli.{module}" for module, _ in COMMANDS.values()}
    assert not found & own
