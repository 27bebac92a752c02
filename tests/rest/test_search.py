"""``GET /@tasks`` with a filter: pages with cursors, and nothing that is hidden."""

from collective.taskqueue.services import search
from collective.taskqueue.services.cursors import opened
from collective.taskqueue.services.cursors import sealed
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Task
from collective.taskqueue.testing.contract.base import completed
from datetime import datetime
from datetime import UTC
from urllib.parse import quote
from urllib.parse import urlsplit
from uuid import uuid4
import pytest


HERE, ELSEWHERE = "/plone/acl_users", "/other/acl_users"


def put(queue, url="/plone/view", user="adder", folder=HERE, **fields):
    """Put a task into a queue; return its id."""
    task = Task(id=str(uuid4()), queue=queue.name, url=url, user=Identity(folder, user), **fields)
    queue.put(task)
    return task.id


def fail(queue, reason):
    """Run what waits: it fails for this reason."""
    for lease in queue.storage.reserve("consumer", limit=100, timeout=0):
        queue.storage.complete(lease, completed(lease, FAILED, reason=reason))


def ids(answer):
    assert answer.status == 200, answer
    assert "items_total" not in answer.json
    return [item["id"] for item in answer.json["items"]]


def walk(client, path):
    """Return the ids of all pages."""
    found = []
    for _ in range(100):
        answer = client.get(path)
        found += ids(answer)
        if "cursor" not in answer.json:
            return found
        path = "@tasks?" + urlsplit(answer.json["batching"]["next"]).query
    raise AssertionError("it does not come to an end")


def moment(seconds):
    return quote(datetime.fromtimestamp(seconds, UTC).isoformat())


@pytest.fixture
def tasks(queue, other_queue):
    """Tasks of two people in two queues; the first two have failed."""
    found = [put(queue, "/plone/a?x=1", created=100.0), put(queue, "/b", "editor", created=200.0)]
    fail(queue, "ValueError: no Row")
    found += [put(queue, "/plone/a/b", created=300.0), put(other_queue, "/plone/b", "editor")]
    return [*found, put(other_queue, "/plone/a")]


def test_each_condition(root, tasks):
    """Alone and together, of all queues."""
    for query, expected in (
        ("cursor=", tasks),
        ("url=/plone/a", [tasks[0], tasks[2], tasks[4]]),
        ("url=/plone/a%3Fx", [tasks[0]]),
        ("reason=row", tasks[:2]),
        ("reason=no%20ROW&url=/b", [tasks[1]]),
        (f"since={moment(200)}", tasks[1:3]),
        (f"since={moment(100)}&until={moment(200)}", [tasks[0]]),
        ("url=/&state=queued", tasks[2:]),
        ("url=/&state=queued,failed&user=editor", [tasks[1], tasks[3]]),
        ("url=/&queue=hooks", tasks[3:]),
        ("reason=row&user=nobody", []),
    ):
        assert ids(root.get(f"@tasks?{query}")) == expected
        assert walk(root, f"@tasks?{query}&b_size=1") == expected


def test_a_page_says_where_to_go_on(root, tasks):
    """Its cursor, and the address of the next page; the last one has neither."""
    answer = root.get("@tasks?url=/&b_size=4")
    assert ids(answer) == tasks[:4]
    following = answer.json["batching"]["next"]
    assert quote(answer.json["cursor"], safe="") in following
    assert answer.json["@id"] == "http://localhost:8080/plone/@tasks?url=%2F&b_size=4"
    last = root.get("@tasks?" + urlsplit(following).query)
    assert ids(last) == tasks[4:]
    assert last.json.keys() == {"@id", "items"}


def test_a_scan_that_is_cut(root, queue, monkeypatch):
    """The page is empty, and there is a cursor."""
    monkeypatch.setattr(search, "LOOKS", 1)
    for _ in range(1001):
        put(queue, "/other")
    task_id = put(queue, "/plone/wanted")
    answer = root.get("@tasks?url=/plone/wanted")
    assert ids(answer) == []
    assert walk(root, "@tasks?url=/plone/wanted&queue=default") == [task_id]
    queue.reset()


def test_own_tasks(adder, editor, member, tasks):
    """A user who may not view the tasks of others finds their own, by all that is in them."""
    mine = [tasks[0], tasks[2], tasks[4]]
    assert walk(adder, "@tasks?cursor=") == mine
    assert walk(adder, "@tasks?cursor=&b_size=1") == mine
    assert ids(adder.get("@tasks?reason=row")) == [tasks[0]]
    assert ids(adder.get("@tasks?url=/plone/a%3Fx")) == [tasks[0]]
    assert ids(adder.get("@tasks?url=/&user=editor")) == []
    assert ids(editor.get("@tasks?url=/&user=editor")) == [tasks[1], tasks[3]]
    assert ids(member.get("@tasks?url=/")) == []


@pytest.mark.parametrize("person", ["viewer", "manager"])
def test_what_is_hidden_is_not_found(request, queue, person):
    """Neither what a user sees in part, nor tasks of another site."""
    client = request.getfixturevalue(person)
    mine = put(queue, "/plone/a?token=s3cr3t", "adder")
    put(queue, "/plone/a?token=s3cr3t", "adder", ELSEWHERE)
    put(queue, "/elsewhere/s3cr3t", "adder", ELSEWHERE)
    fail(queue, "ValueError: s3cr3t")
    expected = [mine] if person == "manager" else []
    assert ids(client.get("@tasks?url=/plone/a")) == [mine]
    assert ids(client.get("@tasks?url=/plone/a%3Ftoken=s3")) == expected
    assert ids(client.get("@tasks?reason=s3cr3t")) == expected
    assert ids(client.get("@tasks?reason=valueerror")) == [mine]
    assert ids(client.get("@tasks?url=/elsewhere")) == []


@pytest.mark.parametrize("person", ["viewer", "manager", "adder"])
def test_the_storage_is_not_asked_for_what_is_hidden(request, queue, monkeypatch, person):
    """From a page, its cursor or the time of the answer, a user can tell nothing of it."""
    client = request.getfixturevalue(person)
    asked = []
    found = queue.storage.admin.search

    def spy(conditions, *where):
        asked.append(conditions)
        return found(conditions, *where)

    monkeypatch.setattr(queue.storage.admin, "search", spy)
    client.get("@tasks?reason=s3cr3t&url=/elsewhere/s3cr3t&queue=default")
    [conditions] = asked
    if person == "adder":
        assert conditions.user == Identity(HERE, "adder")
    else:
        assert (conditions.url, conditions.reason) == (None, None)


def test_a_cursor_tells_nothing(adder, editor, queue):
    """It is another one each time, and only its user can use it."""
    for _ in range(2):
        put(queue)
        put(queue, user="editor")
    cursors = {adder.get("@tasks?cursor=&b_size=1").json["cursor"] for _ in range(5)}
    assert len(cursors) == 5
    assert len({len(cursor) for cursor in cursors}) == 1
    for cursor in cursors:
        path = f"@tasks?b_size=1&cursor={quote(cursor)}"
        assert len(ids(adder.get(path))) == 1
        answer = editor.get(path)
        assert answer.error == (400, "BadRequest", "cursor")


def test_what_is_sealed_is_opened(portal):
    """For the same user, and nobody else; a damaged one is refused."""
    jane = Identity(HERE, "jane")
    text = sealed("mail", "abc", jane)
    assert opened(text, jane) == ("mail", "abc")
    assert opened(sealed("mail", None, None), None) == ("mail", None)
    for number in range(len(text)):
        other = "A" if text[number] != "A" else "B"
        with pytest.raises(ValueError, match="no answer to you had this cursor"):
            opened(text[:number] + other + text[number + 1 :], jane)
    for wrong in ("", "A", text[:-4], text + "AAAA", "ä", "=", " " + text):
        with pytest.raises(ValueError, match="no answer to you had this cursor"):
            opened(wrong, jane)
    with pytest.raises(ValueError, match="no answer to you had this cursor"):
        opened(text, None)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("url=", "url"),
        ("reason=", "reason"),
        (f"url={'a' * 8193}", "url"),
        (f"reason={'a' * 1001}", "reason"),
        ("since=yesterday", "since"),
        ("since=2026-11-21T12:00:00", "since"),
        ("until=nan", "until"),
        (f"since={moment(200)}&until={moment(200)}", "until"),
        ("since=0001-01-01T00:00:00%2B23:59&url=a", None),
        ("cursor=x", "cursor"),
        ("url=/&b_start=5", "b_start"),
        ("url=/&b_size=101", "b_size"),
        ("url=/&state=done", "state"),
        ("url=/&user=", "user"),
        ("url=/&queue=nowhere", "queue"),
        ("url=/&url=/", "url"),
    ],
)
def test_mistakes(manager, queue, query, field):
    """The answer names the field."""
    answer = manager.get(f"@tasks?{query}")
    assert (answer.status == 200) if field is None else (answer.error[::2] == (400, field))


def test_the_cursor_of_another_search(root, tasks):
    """It would lead to a place that means nothing."""
    cursor = quote(root.get("@tasks?url=/plone&b_size=1").json["cursor"])
    assert root.get(f"@tasks?url=/b&cursor={cursor}").error == (400, "BadRequest", "cursor")


def test_anonymous(anonymous, queue):
    """As for all lists."""
    assert anonymous.get("@tasks?url=/").status == 401
