"""The key of a task: any text that a client likes, apart from the keys of other users."""

from collective.taskqueue import taskqueue
from collective.taskqueue.services.keys import own_key
from collective.taskqueue.services.keys import shown_key
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Task
from rest.conftest import HOOK
from uuid import uuid4
import pytest
import transaction


def test_keys(adder, editor, manager, queue):
    """H20, U44: a later one takes the place of the first, but never of another person's."""
    fields = {"url": HOOK, "key": "same", "on_conflict": "replace"}
    first, second = adder.add(**fields), adder.add(**fields)
    theirs = editor.add(**fields)
    assert queue.status(first).state == "cancelled"
    assert [queue.status(task_id).state for task_id in (second, theirs)] == ["queued"] * 2
    skipped = editor.add(url=HOOK, key="same")
    assert queue.status(skipped).id == theirs
    assert editor.get(f"@tasks/{skipped}").json["id"] == theirs
    assert queue.status(manager.add(url=HOOK, key=queue.status(second).task.key)).state == "queued"
    assert queue.status(second).state == "queued"


LONG = "k" * 1000

ODD = [
    "\x00",
    "a\nb",
    "a\x00b",
    "\ud800",
    "\u2028",
    " ",
    "\xa0",
    "\U0001f469\u200d\U0001f680",
    "rest ",
    "rest a b",
    "k" * 201,
    LONG,
    "\U0001f680" * 1000,
]


@pytest.mark.parametrize("key", ODD)
def test_any_text(adder, editor, queue, key):
    """It is skipped, and shown, or its hash is, if the text is nothing for a storage."""
    first, second = (adder.add(url=HOOK, key=key) for _ in range(2))
    assert queue.status(second).id == first
    assert queue.status(editor.add(url=HOOK, key=key)).id != first
    task = queue.status(first).task
    assert len(task.key) <= 255
    assert task.key.isprintable()
    shown = adder.get(f"@tasks/{first}").json["key"]
    assert shown == key or shown.startswith("sha256:")
    assert shown == key or len(key) > 200 or not key.isprintable()


def test_texts_are_not_mixed_up(adder, queue):
    """Neither those that differ at their end, nor a hash and the text that looks like it."""
    ids = [adder.add(url=HOOK, key=key) for key in (*ODD, f"{LONG[:-1]}x")]
    ids += [adder.add(url=HOOK, key=adder.get(f"@tasks/{ids[0]}").json["key"])]
    ids += [adder.add(url=HOOK, key=queue.status(each).task.key) for each in ids[:2]]
    assert [queue.status(each).id for each in ids] == ids


@pytest.mark.parametrize("where", ["@tasks?url={url}&key={key}", "@tasks"])
@pytest.mark.parametrize("key", ["", "k" * 1001])
def test_a_key_that_is_none(adder, where, key):
    """400 with the field, however it is said."""
    path = where.format(url=HOOK, key=key)
    answer = adder.post(path, {"url": HOOK, "key": key} if path == "@tasks" else None)
    assert answer.error == (400, "BadRequest", "key")


@pytest.mark.parametrize("key", ["rest ", "rest a", "rest a b", "rest  ", "rest", "k"])
@pytest.mark.parametrize("folder", ["/plone/acl_users", "/acl_users", None])
def test_keys_that_were_given_in_python(root, manager, queue, key, folder):
    """Shown as they are; never an error, nor taken for a client's."""
    user = None if folder is None else Identity(folder, "adder")
    task = Task(id=str(uuid4()), queue="default", url="/plone/@@view", key=key, user=user)
    queue.put(task)
    answer = root.get(f"@tasks/{task.id}")
    assert (answer.status, answer.json["key"]) == (200, key)
    added = manager.add(url="/plone/@@view", key=key)
    assert queue.status(added).id == added


def test_a_key_of_python_is_not_the_same_as_a_clients(adder, site, queue):
    """Though both are of the same text."""
    theirs = taskqueue.add("/plone/@@view", key="nightly")
    transaction.commit()
    ours = adder.add(url="/plone/@@view", key="nightly", on_conflict="replace")
    assert queue.status(theirs).state == queue.status(ours).state == "queued"


def test_who_a_key_belongs_to():
    """A user id means nothing without its folder, and nothing after its user was deleted."""
    people = [
        None,
        Identity("/a", "b c"),
        Identity("/a b", "c"),
        Identity("/a", "b", 1),
        Identity("/a", "b"),
    ]
    keys = [own_key(person, "k") for person in people]
    assert len(set(keys)) == len(keys)
    for person, key in zip(people, keys, strict=True):
        for other in people:
            task = Task(id="1", queue="default", url="/", user=other, key=key)
            assert (shown_key(task) == "k") == (other == person)
