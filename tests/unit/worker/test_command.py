"""How a supervisor starts the interpreter of a worker process."""

from collective.taskqueue.worker.child import RUN
import subprocess
import sys


#: What a -nspkg.pth file of pkg_resources does when the interpreter starts.
NAMESPACE = """\
import sys, types
sys.modules["collective"] = types.ModuleType("collective")
sys.modules["collective"].__path__ = ["/nonexistent"]
"""


def test_a_namespace_that_was_made_before_hides_no_package():
    """It comes as far as its socket, which is none here."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", NAMESPACE + RUN, "-1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "No module named" not in done.stderr
    assert "Bad file descriptor" in done.stderr
