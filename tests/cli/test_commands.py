"""Each command against each storage, with a consumer beside it."""

from cli.setup import REASON
from cli.setup import wait_for
from collective.taskqueue.task import Identity
from collective.taskqueue.task import STATES
import json
import pytest
import time


JANE = Identity("/Plone/acl_users", "jane")


def test_look(setup, kind):
    """stats, tasks, show and consumers say the same as the storage."""
    [failed] = setup.fail(url="/Plone/größe/@@report?a=1", user=JANE, description="日本")
    old, new = setup.add(2, url="/Plone/@@work", payload=b"body")
    [found] = setup.json("stats")["items"]
    assert found["counts"] == {**dict.fromkeys(STATES, 0), "queued": 2, "failed": 1}
    assert found["type"] == ("redis" if kind == "redis-server" else "sql")
    assert (found["name"], found["available"], found["paused"]) == ("default", True, False)
    assert [each["name"] for each in found["consumers"]] == ["seed"]
    document = setup.json("tasks")
    assert document["more"] is False
    assert {each["id"] for each in document["items"]} == {failed, old.id, new.id}
    [item] = setup.json("tasks", "--state", "failed")["items"]
    assert (item["id"], item["user"], item["reason"]) == (failed, "jane", REASON)
    text = setup.out("show", failed)
    assert f"reason       {REASON}\n" in text
    assert "user         /Plone/acl_users/jane\n" in text
    assert setup.json("show", new.id)["payload_size"] == 4
    assert "seed" in setup.out("consumers")


def test_filters(setup):
    """Each filter alone, and two of them; those that match nothing."""
    now = time.time()
    [a] = setup.fail(url="/a/1", user=JANE, created=now - 7200)
    [b] = setup.fail(url="/b/1", created=now - 60)
    [c] = setup.add(1, url="/a/2", created=now - 60)

    def ids(*words):
        found = json.loads(setup.here("tasks", "--json", *words).stdout)
        return {each["id"] for each in found["items"]}

    assert ids("--url", "/a/") == {a, c.id}
    assert ids("--user", "jane") == {a}
    assert ids("--since", "1h") == {b, c.id}
    assert ids("--until", "1h", "--state", "failed") == {a}
    assert ids("--reason", "bad gateway") == {a, b}
    assert ids("--state", "failed", "--state", "queued", "--url", "/a/") == {a, c.id}
    assert setup.out("tasks", "--reason", "another") == "no task matches\n"
    assert setup.json("tasks", "--limit", "2")["more"] is True


def test_change_by_id(setup):
    """retry, cancel and remove: what they did, and one sentence for each that they cannot do."""
    a, b = setup.fail(2)
    assert setup.out("retry", a) == f"task {a}: queued again\n"
    assert setup.out("cancel", a) == f"task {a}: cancelled\n"
    assert setup.out("remove", a, b) == f"task {a}: removed\ntask {b}: removed\n"
    assert setup.storage.admin.counts() == dict.fromkeys(STATES, 0)
    [waiting] = setup.add()
    assert waiting.id in setup.refused("retry", waiting.id, code=1)
    assert setup.refused("show", a, code=6) == f"task {a}: unknown, or no longer kept"
    done = setup.run("remove", a, waiting.id)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2


def test_all(setup):
    """--all says how many, asks, and changes only what the filters match."""
    setup.fail(3, url="/a")
    setup.fail(2, url="/b")
    text = setup.out("retry", "--all", "--url", "/a", code=1, input="n\n")
    assert text == "3 tasks to retry\nGo on? [y/N]: nothing was changed\n"
    assert setup.storage.admin.counts()["failed"] == 5
    text = setup.out("retry", "--all", "--url", "/a", input="y\n")
    assert text == "3 tasks to retry\nGo on? [y/N]: 3 tasks queued again\n"
    assert setup.out("cancel", "--all", "--yes").endswith("3 tasks cancelled\n")
    text = setup.out("remove", "--all", "--state", "failed", "--yes")
    assert text == "2 tasks to remove\n2 tasks removed\n"
    assert setup.storage.admin.counts()["cancelled"] == 3
    assert setup.out("retry", "--all", "--state", "queued", "--yes") == "no task matches\n"


def test_steer(setup):
    """pause, resume, purge and reset; what deletes asks, and the log has each id."""
    setup.fail(2)
    tasks = setup.add(3)
    setup.out("pause", "default")
    assert setup.storage.admin.paused()
    assert "queue default: paused" in setup.out("stats")
    setup.out("resume", "default")
    assert not setup.storage.admin.paused()
    assert "nothing was changed" in setup.out("reset", "default", code=1, input="n\n")
    assert setup.storage.admin.counts()["queued"] == 3
    text = setup.out("--log", "log", "reset", "default", "--yes")
    assert text == "queue default: 3 waiting tasks deleted\n"
    log = (setup.folder / "log").read_text()
    assert all(task.id in log for task in tasks)
    text = setup.out("purge", "default", "--state", "failed", input="y\n")
    assert text.endswith("queue default: 2 failed tasks deleted\n")
    assert setup.storage.admin.counts() == dict.fromkeys(STATES, 0)


def test_beside_a_consumer(setup):
    """A task that is added here runs there; the consumer is listed while it lives."""
    with setup.consumer() as ran:
        words = ("--description", "hé", "--param", "a=ö", "--header", "X-A: b", "--payload", "-")
        user = ("--user", "/Plone/acl_users/jane")
        task_id = setup.out("add", "/Plone/@@x", *words, *user, input="body").strip()
        wait_for(lambda: ran() == [task_id], "the task to run")
        wait_for(lambda: setup.storage.admin.get(task_id).state == "succeeded", "its end")
        found = setup.json("show", task_id)
        assert (found["user"], found["description"]) == ("jane", "hé")
        assert found["url"] == "/Plone/@@x?a=%C3%B6"
        assert found["headers"]["X-A"] == "(hidden)"
        [consumer] = [each for each in setup.json("consumers")["items"] if each["name"] == "beside"]
        assert consumer["alive"] is True
        assert setup.out("check").endswith("all is as it should be\n")


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["tasks", "--queue", "other"], 6, "there is no queue 'other' (known: default)"),
        (["retry"], 2, "name tasks by their ids, or by filters and --all; see taskqueue retry"),
        (["retry", "x", "--all"], 2, "name the tasks by their ids, or by filters and --all, not"),
        (["tasks", "--since", "2x"], 2, "Invalid value for '--since': '2x' is no moment"),
        (["tasks", "--since", "1h", "--until", "2h"], 2, "until is a later moment than"),
        (["stats", "--watch", "--json"], 2, "--watch is for people"),
        (["add", "view"], 2, "a url begins with /"),
        (["add", "/x", "--user", "jane"], 2, "--user is the path of a user folder and an id"),
        (["add", "/x", "--max-attempts", "0"], 2, "max_attempts is an integer from 1"),
        (["add", "/x", "--param", "a"], 2, "--param is NAME=VALUE"),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["--config", "nowhere", "stats"], 3, "there is no file nowhere"),
    ],
)
@pytest.mark.parametrize("kind", ["sqlite"])
def test_one_sentence(setup, words, code, sentence):
    """What a person calls in a wrong way is told in one sentence, and changes nothing."""
    done = setup.here(*words)
    assert done.returncode == code
    assert done.stderr.startswith(f"taskqueue: {sentence}")
    assert done.stderr.count("\n") == 1
    assert setup.storage.admin.counts() == dict.fromkeys(STATES, 0)
