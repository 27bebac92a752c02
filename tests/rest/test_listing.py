"""``GET /@tasks``: pages, filters, and whose tasks they are."""

from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.task import Outcome
import pytest


HOOK = "https://example.org/hook"


@pytest.fixture
def tasks(adder, editor, queue, other_queue):
    """Five tasks of two people in two queues; one of them has succeeded."""
    ids = [adder.add(url=HOOK)]
    consumer = Consumer(queue.storage, lambda attempt: Outcome(200), ServerSettings())
    consumer.step()
    consumer.stop()
    ids += [adder.add(url=HOOK, description="second"), editor.add(url=HOOK, delay=60)]
    ids += [adder.add(url=HOOK, queue="hooks"), editor.add(url=HOOK, queue="hooks")]
    return ids


def ids(answer):
    assert answer.status == 200, answer
    assert answer.json["items_total"] >= len(answer.json["items"])
    return [item["id"] for item in answer.json["items"]]


def test_all_tasks(manager, viewer, root, tasks):
    """H05, U45: of all queues, oldest first, each with its address."""
    for person in (manager, viewer, root):
        answer = person.get("@tasks")
        assert ids(answer) == tasks
        assert answer.json["items_total"] == 5
        assert answer.json["@id"] == "http://localhost:8080/plone/@tasks"
        assert "batching" not in answer.json
    first = answer.json["items"][1]
    assert first["@id"] == f"http://localhost:8080/plone/@tasks/{tasks[1]}"
    assert (first["description"], first["state"]) == ("second", "queued")


def test_own_tasks(adder, editor, member, tasks):
    """A user who may not view the tasks of others sees their own, with any filter."""
    mine = [tasks[0], tasks[1], tasks[3]]
    assert ids(adder.get("@tasks")) == mine
    assert ids(adder.get("@tasks?user=adder")) == mine
    assert ids(adder.get("@tasks?user=editor")) == []
    assert ids(adder.get("@tasks?state=succeeded")) == [tasks[0]]
    assert ids(adder.get("@tasks?queue=hooks")) == [tasks[3]]
    assert ids(editor.get("@tasks")) == [tasks[2], tasks[4]]
    assert ids(member.get("@tasks")) == []
    assert adder.get("@tasks").json["items_total"] == 3


def test_filters(manager, tasks):
    """By queue, state and user, and all of them together."""
    assert ids(manager.get("@tasks?queue=hooks")) == tasks[3:]
    assert ids(manager.get("@tasks?state=queued")) == [tasks[1], *tasks[3:]]
    assert ids(manager.get("@tasks?user=editor")) == [tasks[2], tasks[4]]
    assert ids(manager.get("@tasks?user=editor&state=scheduled&queue=default")) == [tasks[2]]
    assert ids(manager.get("@tasks?user=nobody")) == []
    assert ids(manager.get("@tasks?state=running")) == []


def test_several_states(manager, adder, tasks):
    """One after the other, as they are named; twice the same is once."""
    assert ids(manager.get("@tasks?state=scheduled,queued")) == [tasks[2], tasks[1], *tasks[3:]]
    assert ids(manager.get("@tasks?state=queued,queued,running")) == [tasks[1], *tasks[3:]]
    assert ids(manager.get("@tasks?state=failed,cancelled")) == []
    assert ids(manager.get("@tasks?state=scheduled,succeeded&user=editor")) == [tasks[2]]
    assert ids(adder.get("@tasks?state=queued%2Csucceeded&queue=default")) == tasks[1::-1]
    assert manager.get("@tasks?state=queued,scheduled").json["items_total"] == 4


def test_pages_of_several_states(manager, tasks):
    """The links lead through all of them."""
    found, path = [], "@tasks?state=succeeded,scheduled,queued&b_size=1"
    while path:
        answer = manager.get(path)
        found += ids(answer)
        path = answer.json["batching"].get("next", "").removeprefix("http://localhost:8080")
    assert found == [tasks[0], tasks[2], tasks[1], *tasks[3:]]


def test_pages(manager, adder, tasks):
    """One leads to the next, across queues, until all tasks were there."""
    for person, expected in ((manager, tasks), (adder, [tasks[0], tasks[1], tasks[3]])):
        found = []
        path = "@tasks?b_size=2"
        while path:
            answer = person.get(path)
            assert len(answer.json["items"]) <= 2
            found += ids(answer)
            links = answer.json["batching"]
            assert links["first"].endswith("b_start=0&b_size=2")
            path = links.get("next", "").removeprefix("http://localhost:8080")
        assert found == expected


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("b_size=0", "b_size"),
        ("b_size=-1", "b_size"),
        ("b_size=101", "b_size"),
        ("b_size=abc", "b_size"),
        ("b_size=1&b_size=2", "b_size"),
        ("b_size=%D9%A1", None),
        ("b_start=-1", "b_start"),
        ("b_start:int=x", "b_start"),
        ("a:method=b", "a"),
        (":default_method=b", "query"),
        ("b_start=99999999999999999999", "b_start"),
        ("state=asleep", "state"),
        ("state=", "state"),
        ("state=queued,asleep", "state"),
        ("state=queued,", "state"),
        ("state=,queued", "state"),
        ("state=queued,,failed", "state"),
        ("state=queued;failed", "state"),
        ("state=QUEUED", "state"),
        ("state=queued&state=failed", "state"),
        ("queue=default,hooks", "queue"),
        ("BODY=%7B%22b_size%22:0%7D", "BODY"),
        ("state:list=queued", "state"),
        ("queue=nope", "queue"),
        ("user:int=5", "user"),
    ],
)
def test_what_is_wrong_is_named(manager, query, field):
    """400 with the field."""
    answer = manager.get(f"@tasks?{query}")
    if field is None:
        assert answer.status == 200
    else:
        assert answer.error == (400, "BadRequest", field)


def test_pages_that_are_not_there(manager, tasks):
    """Nothing is read from a body that there is not, and behind the end there is nothing."""
    assert manager.get("@tasks?b_start=5000&b_size=7").status == 200
    assert manager("GET", "@tasks", Cookie='BODY={"b_size":0}').status == 200


@pytest.mark.parametrize("user", ["", "%00", "a%00b", "%ff", "%ed%a0%80", "a%0Ab"])
def test_an_impossible_user_id(manager, adder, tasks, user):
    """Refused before a storage is asked: not all take any text, or agree on an empty one."""
    for person in (manager, adder):
        assert person.get(f"@tasks?user={user}").error == (400, "BadRequest", "user")
