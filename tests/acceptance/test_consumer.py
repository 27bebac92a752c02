"""How many tasks run at a time, and what the log says about each."""

from acceptance.instance import basic
from acceptance.instance import wait_for
import pytest
import re


def peak(records):
    """The greatest number of tasks that ran at the same time."""
    running = [0]
    for item in records:
        running.append(running[-1] + (1 if item["event"] == "start" else -1))
    return max(running)


@pytest.fixture
def gates(plone):
    """Queue tasks that wait at gates, and tell what they do; no gate stays closed."""
    names = []

    def add(queue, number):
        names.extend(f"{queue}-{position}" for position in range(number))
        url = "/Plone/@@fixture-gate?name={}"
        ids = plone.add(*[{"url": url.format(name), "queue": queue} for name in names])["ids"]
        return names, ids, lambda: [item for item in plone.records() if item.get("gate") in names]

    yield add
    for name in names:
        plone.open(name)


@pytest.mark.parametrize(("queue", "limit", "number"), [("one", 1, 4), ("three", 3, 8)])
def test_concurrent_limit(plone, gates, queue, limit, number):
    """C82, O10: as many tasks run as allowed, never more; each that ends makes room for one.

    In order (guarantee 3): those that wait are always the last ones.
    """
    names, ids, events = gates(queue, number)
    for position, name in enumerate(names):
        running = names[position : position + limit]
        waiting = number - position - len(running)
        expected = {"running": len(running), "queued": waiting, "len": waiting}
        wait_for(
            lambda expected=expected: plone.counts()[queue].items() >= expected.items(),
            f"{expected} before {name} ends",
        )
        begun = names[: position + len(running)]
        wait_for(
            lambda begun=begun: sorted(started(events())) == begun, f"{begun} and no other to start"
        )
        plone.open(name)
    for task_id in ids:
        assert plone.finished(task_id)["state"] == "succeeded"
    assert peak(events()) == limit


def test_without_a_limit(plone, gates):
    """C82: 0 runs as many as there are tasks, also more than the database pool expects."""
    names, ids, events = gates("unlimited", 10)
    wait_for(lambda: len(started(events())) == 10, "all tasks to run at the same time")
    assert plone.counts()["unlimited"]["running"] == 10
    for name in names:
        plone.open(name)
    for task_id in ids:
        assert plone.finished(task_id)["state"] == "succeeded"
    assert peak(events()) == 10


def started(records):
    """Names of the tasks that have started."""
    return [item["gate"] for item in records if item["event"] == "start"]


def test_one_access_line_for_each_task(plone):
    """C88: id, method, url, status, seconds, attempt and user; no values of the query."""
    done, missing = plone.add(
        {"url": "/Plone/@@fixture-ping?a=1", "method": "POST", "payload": None},
        {"url": "/Plone/missing"},
        headers=basic("jane"),
    )["ids"]
    for task_id, what, status in (
        (done, "POST /Plone/@@fixture-ping?a", 200),
        (missing, "GET /Plone/missing", 404),
    ):
        plone.finished(task_id)
        [line] = plone.lines("collective.taskqueue.access", f"task {task_id}:")
        pattern = (
            rf'.* INFO .*task {task_id}: "{re.escape(what)}" {status} \d+\.\d{{3}} s,'
            r" attempt 1, user jane"
        )
        assert re.fullmatch(pattern, line)


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("missing", 404, "NotFound"),
        ("@@fixture-error", 500, "RuntimeError: the fixture is broken"),
        ("@@fixture-secret", 401, "Unauthorized"),
        ("@@fixture-conflict?times=11", 500, "ConflictError"),
    ],
)
def test_a_failed_task_is_one_line(plone, path, status, reason):
    """C87, H23, guarantee 6: one line names the id, the cause and the consequence."""
    [task_id] = plone.add({"url": f"/Plone/{path}", "queue": "default"})["ids"]
    found = plone.finished(task_id)
    assert (found["state"], found["status"]) == ("failed", status)
    assert reason in found["reason"]
    wait_for(lambda: plone.lines(task_id, " ERROR "), "the line in the log")
    [line] = plone.lines(task_id, "[collective.taskqueue:", " ERROR ")
    assert f"task {task_id}: " in line
    assert found["reason"].splitlines()[0] in line
    assert line.endswith(", failed")


def test_a_successful_task_is_no_error(plone):
    """C87: success is silent but for the access line."""
    [task_id] = plone.add({"url": "/Plone/@@fixture-ping"})["ids"]
    plone.finished(task_id)
    assert len(plone.lines(task_id)) == 1


def test_a_storage_of_another_package(plone):
    """C50: named by its dotted path, it is given the keys of its section, and works."""
    [settings] = [item["storage"] for item in plone.records() if "storage" in item]
    given = {
        "queue": "custom",
        "type": "fixture.storage.RecordingStorage",
        "host": "storage.example.org",
        "port": 1234,
        "db": "7",
        "password": "s3cret",
        "unix_socket_path": "/nowhere.sock",
        "url": "fixture://somewhere",
    }
    assert settings.items() >= given.items()
    [seen] = plone.run({"url": "/Plone/@@fixture-record", "queue": "custom"})
    assert seen["headers"]["HTTP_X_TASK_QUEUE"] == "custom"


def test_the_password_of_a_storage_is_not_logged(plone):
    """D22."""
    assert plone.lines("queue custom")
    assert not plone.lines("s3cret")
    assert "s3cret" not in plone.console()
