"""What the services ask the storages for: what an answer shows, and no more."""

from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
from rest.conftest import HOOK
from uuid import uuid4
import pytest


ADDER = Identity("/plone/acl_users", "adder")
NAMESAKE = Identity("/other/acl_users", "adder")
EDITOR = Identity("/plone/acl_users", "editor")

#: What reads anything of tasks; the other methods are not asked by those that look.
READING = ("get", "tasks", "counts")


def put(queue, user, number=1, **more):
    ids = [str(uuid4()) for _ in range(number)]
    for task_id in ids:
        queue.put(Task(id=task_id, queue=queue.name, url=HOOK, user=user, **more))
    return ids


def end(queue, number):
    consumer = Consumer(queue.storage, lambda attempt: Outcome(200, body=b"b"), ServerSettings())
    for _ in range(number):
        assert consumer.step() == 1
    consumer.stop()


@pytest.fixture
def asked(queue, other_queue, monkeypatch):
    """What the storages were asked, in order: queue, method and arguments."""
    asked = []

    def watch(queue, method):
        real = getattr(queue.storage.admin, method)

        def call(*args, **kwargs):
            asked.append((queue.name, method, *args, *kwargs.values()))
            return real(*args, **kwargs)

        monkeypatch.setattr(queue.storage.admin, method, call)

    for each in (queue, other_queue):
        for method in READING:
            watch(each, method)
    return asked


def reads(asked):
    return [call for call in asked if call[1] != "counts"]


def test_one_row_of_many_large_ones(adder, queue, asked):
    """200 own tasks of a megabyte: one brief page of one row, and the numbers."""
    ids = put(queue, ADDER, 200, payload=b"x" * 2**20)
    asked.clear()
    answer = adder.get("@tasks?b_size=1&b_start=150")
    assert [item["id"] for item in answer.json["items"]] == [ids[150]]
    assert answer.json["items_total"] == 200
    assert reads(asked) == [("default", "tasks", None, ADDER, 150, 1)]
    assert len(asked) == 3


def test_a_page_of_everything(manager, viewer, root, queue, asked):
    """However many tasks there are: the cost is that of a page."""
    put(queue, ADDER, 250)
    for person in (manager, viewer, root):
        asked.clear()
        assert person.get("@tasks?b_size=10&b_start=200").json["items_total"] == 250
        assert reads(asked) == [("default", "tasks", None, None, 200, 10)]
        asked.clear()
        assert len(person.get("@tasks?b_size=100&b_start=200").json["items"]) == 50
        assert reads(asked) == [("default", "tasks", None, None, 200, 50)]


def test_a_page_across_queues_and_states(adder, queue, other_queue, asked):
    """Each part of it is read once, and nothing of those in front or behind."""
    put(queue, ADDER, 4)
    end(queue, 2)
    put(queue, ADDER, 1, due=1e12)
    put(other_queue, ADDER, 3)
    put(queue, EDITOR, 5)
    asked.clear()
    path = "@tasks?state=succeeded,queued,scheduled,failed&b_start=1&b_size=5"
    assert len(adder.get(path).json["items"]) == 5
    assert reads(asked) == [
        ("default", "tasks", "succeeded", ADDER, 1, 1),
        ("default", "tasks", "queued", ADDER, 0, 2),
        ("default", "tasks", "scheduled", ADDER, 0, 1),
        ("hooks", "tasks", "queued", ADDER, 0, 1),
    ]
    assert [call for call in asked if call[1] == "counts"] == [
        ("default", "counts", ADDER),
        ("hooks", "counts", ADDER),
    ]


def test_a_page_with_nothing_on_it(adder, queue, asked):
    """No task is read for an empty page, however many tasks other users have."""
    put(queue, EDITOR, 5)
    put(queue, NAMESAKE, 5)
    asked.clear()
    for query in ("", "?state=queued", "?user=adder", "?user=editor", "?user=manager&b_size=1"):
        answer = adder.get(f"@tasks{query}").json
        assert (answer["items"], answer["items_total"]) == ([], 0)
    assert reads(asked) == []


def test_a_user_of_any_folder(viewer, manager, root, queue, asked):
    """For who may view: by id, a page at a time; those of other sites are missing from it."""
    ours = put(queue, ADDER, 3)
    theirs = put(queue, NAMESAKE, 3)
    for person, expected in ((viewer, [ours[2]]), (manager, [ours[2]]), (root, [ours[2], *theirs])):
        asked.clear()
        answer = person.get("@tasks?user=adder&b_start=2&b_size=4").json
        assert [item["id"] for item in answer["items"]] == expected
        assert answer["items_total"] == 6
        assert reads(asked) == [("default", "tasks", None, "adder", 2, 4)]


def test_a_user_who_was_deleted(adder, manager, queue):
    """The next user who gets the id sees neither lists nor tasks of the deleted one."""
    put(queue, Identity("/plone/acl_users", "adder", 1), 2)
    (mine,) = put(queue, ADDER)
    (theirs,) = put(queue, Identity("/plone/acl_users", "adder", 7))
    assert [item["id"] for item in adder.get("@tasks?user=adder").json["items"]] == [mine]
    assert adder.get(f"@tasks/{theirs}").status == 404
    assert adder.get(f"@tasks/{theirs}/response").status == 404
    assert len(manager.get("@tasks?user=adder").json["items"]) == 4


REQUESTS = [
    ("GET", ""),
    ("GET", "?wait=30"),
    ("DELETE", ""),
    ("GET", "/response"),
    ("GET", "/response?wait=30"),
    ("DELETE", "/response"),
    ("POST", "/retry"),
    ("POST", "/run"),
]


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_an_unknown_id_costs_what_a_task_of_another_user_costs(adder, queue, asked, method, path):
    """The same questions in the same words, and the same answer."""
    (theirs,) = put(queue, EDITOR, payload=b"x" * 2**20)
    unknown, questions, answers = str(uuid4()), [], []
    for task_id in (theirs, unknown):
        asked.clear()
        answer = adder(method, f"@tasks/{task_id}{path}")
        assert answer.error == (404, "NotFound", None)
        headers = {k: v for k, v in answer.headers.items() if k != "Date"}
        answers.append((answer.status, headers, answer.body))
        questions.append([(queue, method, brief) for queue, method, _, brief in asked])
    assert answers[0] == answers[1]
    assert questions[0] == questions[1] == [("default", "get", True), ("hooks", "get", True)]


@pytest.mark.parametrize(("method", "path"), REQUESTS[2:3] + REQUESTS[5:])
def test_only_what_is_shown_is_read_whole(adder, queue, asked, method, path):
    """Whether one may, and whether it is finished, is told by a brief status."""
    (mine,) = put(queue, ADDER)
    asked.clear()
    assert adder(method, f"@tasks/{mine}{path}").status in (200, 204, 409)
    whole = [call for call in asked if call[1] == "get" and call[3:] != (True,)]
    assert len(whole) <= (path == "/run")


def test_who_may_not_read_a_response(viewer, queue, asked):
    """It is not read for them."""
    (mine,) = put(queue, ADDER)
    asked.clear()
    assert viewer.get(f"@tasks/{mine}/response").status == 403
    assert [call[3:] for call in asked] == [(True,)]


def test_what_a_queue_is_asked(viewer, queue, asked):
    """Which of the running tasks one may see is told by a brief status."""
    put(queue, ADDER, 2, payload=b"x" * 2**20)
    queue.storage.reserve("worker1", 2, timeout=0)
    asked.clear()
    (consumer,) = viewer.get("@taskqueues/default").json["consumers"]
    assert len(consumer["running"]) == 2
    assert {call[3:] for call in asked if call[1] == "get"} == {(True,)}


def test_attempts_are_counted_without_their_history(adder, queue):
    """A list has the number, and not what is counted."""
    (mine,) = put(queue, ADDER)
    end(queue, 1)
    assert adder.get("@tasks").json["items"][0]["attempts"] == 1
    found = adder.get(f"@tasks/{mine}").json
    assert (found["attempts"], len(found["history"])) == (1, 1)
