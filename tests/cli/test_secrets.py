"""What lies in a queue or in a configuration and may be a secret is printed by no command."""

from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Transition
import pytest
import time


SECRET = "sEcrEt"


@pytest.fixture
def kind():
    return "postgresql"


@pytest.fixture
def sections(sections):
    """A password that the server does not ask for."""
    return sections.replace("postgres@", f"postgres:{SECRET}1@").replace(
        "</taskqueue>", f"  secret whsec_{4 * (SECRET + '22')}\n</taskqueue>"
    )


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_no_command_prints_secrets(setup, more):
    [task] = setup.add(
        payload=f"{SECRET}3".encode(),
        headers=(("Authorization", f"Bearer {SECRET}4"), ("Cookie", f"x={SECRET}5")),
        user=Identity("/Plone/acl_users", "jane"),
    )
    [lease] = setup.storage.reserve("seed", timeout=0)
    attempt = AttemptRecord(1, "seed", time.time(), 0.5, 500, "status 500")
    body = {"body": f"{SECRET}6".encode(), "headers": (("Set-Cookie", f"y={SECRET}7"),)}
    setup.storage.complete(lease, Transition(FAILED, attempt, "status 500", **body))
    for words in (("stats",), ("tasks",), ("show", task.id), ("consumers",), ("check",)):
        done = setup.here("--log", "-", *words, *more)
        assert done.returncode == 0, done
        assert SECRET not in done.stdout + done.stderr
    assert "Authorization" in setup.here("show", task.id, *more).stdout


def test_an_outage_and_a_mistake(setup, monkeypatch):
    """Neither the error of a storage nor one that nobody expects shows a password."""
    admin = type(setup.storage.admin)

    def unavailable(self, *args, **more):
        raise StorageUnavailable("the server is gone")

    monkeypatch.setattr(admin, "counts", unavailable)
    done = setup.here("stats", "--queue", "default")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        "taskqueue: queue default: its storage is unavailable: the server is gone\n"
    )

    def broken(self, *args, **more):
        raise RuntimeError(f"password {SECRET}1 of\nthe server")

    monkeypatch.setattr(admin, "counts", broken)
    done = setup.here("stats")
    assert done.returncode == 70
    assert done.stderr == (
        "taskqueue: RuntimeError: password *** of the server; --log has the traceback\n"
    )
