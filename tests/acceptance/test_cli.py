"""The command line beside a running instance, whose FileStorage no other process may open."""

from acceptance.instance import wait_for
import json
import pytest
import subprocess
import sys


SNIPPET = """\
%import collective.taskqueue
<taskqueue>
  type sql
  url sqlite:///$(FIXTURE_FILE)
</taskqueue>
<taskqueue-server />
"""


@pytest.fixture
def instance(template, tmp_path):
    environ = {"FIXTURE_FILE": str(tmp_path / "queue.sqlite")}
    instance = template.copy(tmp_path / "instance", SNIPPET, environ=environ)
    try:
        yield instance.start()
    finally:
        instance.kill()


def test_beside_an_instance(instance):
    """Tasks are added as a user, run there, and can be seen and steered from here."""

    def call(*words, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "collective.taskqueue", *words],
            # In this folder is etc/zope.conf.
            cwd=instance.home,
            env=instance.environ,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout

    jane, gone, anonymous = (
        call("add", "/Auth/@@fixture-record?a=1", *words).strip()
        for words in (
            ("--user", "/Auth/acl_users/jane"),
            ("--user", "/Auth/acl_users/nobody"),
            (),
        )
    )
    assert instance.finished(jane)["state"] == "succeeded"
    assert [item["user"] for item in instance.records(id=jane)] == ["jane"]
    assert instance.finished(anonymous)["state"] == "succeeded"
    assert [item["user"] for item in instance.records(id=anonymous)] == [None]
    assert instance.finished(gone)["state"] == "failed"
    assert instance.records(id=gone) == []
    [consumer] = json.loads(call("consumers", "--json"))["items"]
    assert (consumer["pid"], consumer["alive"]) == (instance.process.pid, True)
    assert call("check").endswith("all is as it should be\n")
    call("pause", "default")
    waiting = call("add", "/Auth/@@fixture-record").strip()
    wait_for(lambda: instance.status(waiting)["state"] == "queued", "the task to wait")
    call("resume", "default")
    assert instance.finished(waiting)["state"] == "succeeded"
    # The demo add-on has queued a letter about the failure, too.
    text = call("retry", "--all", "--state", "failed", "--url", "/Auth/@@fixture", "--yes")
    assert text == "1 task to retry\n1 task queued again\n"
    wait_for(lambda: instance.status(gone)["attempts"][1:], "the second attempt")
