"""One person cannot fill a queue over HTTP, nor hold its consumers."""

from collective.taskqueue import taskqueue
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.services import tasks
from collective.taskqueue.services.access import ADD
from collective.taskqueue.services.limits import require_capacity
from collective.taskqueue.services.refusal import Refusal
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import task_queue
from plone.app.testing import login
from uuid import uuid4
import pytest
import transaction


VIEW = "/plone/@@view"


@pytest.fixture
def few(site):
    with task_queue("few", max_waiting_per_person=3) as queue:
        yield queue


def assert_too_many(answer):
    assert answer.error == (429, "TooManyRequests", None)
    assert int(answer.headers["Retry-After"]) > 0
    assert "Location" not in answer.headers


def end(queue, outcome, number=1):
    consumer = Consumer(queue.storage, lambda attempt: outcome, ServerSettings())
    for _ in range(number):
        assert consumer.step() == 1
    consumer.stop()


def test_so_many_wait_and_no_more(adder, editor, few, queue):
    """Queued and scheduled ones count, of each person in each queue."""
    for delay in (0, 60, 0):
        adder.add(url=VIEW, queue="few", delay=delay)
    for _ in range(2):
        assert_too_many(adder.post("@tasks", {"url": VIEW, "queue": "few"}))
    assert_too_many(adder("POST", f"@tasks?url={VIEW}&queue=few"))
    assert sum(few.counts().values()) == 3
    adder.add(url=VIEW, queue="default")
    editor.add(url=VIEW, queue="few")
    end(few, Outcome(200))
    adder.add(url=VIEW, queue="few")


def test_managers_are_people(manager, root, few):
    """Also those of all sites."""
    for person in (manager, root):
        for _ in range(3):
            person.add(url=VIEW, queue="few")
        assert_too_many(person.post("@tasks", {"url": VIEW, "queue": "few"}))


def test_namesakes_are_others(adder, few):
    """A user id means nothing without its folder."""
    for folder in ("/other/acl_users", "/acl_users"):
        for _ in range(3):
            user = Identity(folder, "adder")
            few.put(Task(id=str(uuid4()), queue="few", url=VIEW, user=user))
    adder.add(url=VIEW, queue="few")


def test_no_limit(adder, site):
    """Zero is none."""
    with task_queue("many", max_waiting_per_person=0):
        for _ in range(5):
            adder.add(url=VIEW, queue="many")


def test_what_is_wrong_with_a_task_is_told_first(adder, few):
    """It would be refused later, too."""
    for _ in range(3):
        adder.add(url=VIEW, queue="few")
    assert adder.post("@tasks", {"url": VIEW, "queue": "few", "a": 1}).status == 400


def test_anonymous(anonymous, adder, portal, few):
    """No storage knows them from what else has no user: they are held to the whole queue."""
    portal.manage_permission(ADD, ["Manager", "Adder", "Anonymous"])
    transaction.commit()
    for _ in range(2):
        assert anonymous.post("@tasks", {"url": VIEW, "queue": "few"}).status == 201
    adder.add(url=VIEW, queue="few")
    assert_too_many(anonymous.post("@tasks", {"url": VIEW, "queue": "few"}))
    adder.add(url=VIEW, queue="few")


def test_what_is_not_committed_yet_counts(portal, few):
    """A subscriber of the request may have added tasks, too."""
    login(portal, "adder")
    user = Identity("/plone/acl_users", "adder")
    for _ in range(3):
        require_capacity(few, user)
        few.add(VIEW)
    for person in (user, None):
        with pytest.raises(Refusal) as refused:
            require_capacity(few, person)
        assert refused.value.status == 429
    require_capacity(few, Identity("/plone/acl_users", "editor"))
    transaction.abort()
    require_capacity(few, user)


def test_python_is_not_limited(portal, few):
    """Who writes code knows what it does."""
    login(portal, "adder")
    for _ in range(5):
        taskqueue.add(VIEW, queue="few")
    transaction.commit()
    assert len(few) == 5


def test_retry_is_limited(adder, manager, few):
    """Else one could fill a queue by failing; who manages others' tasks is trusted."""
    ids = [adder.add(url=VIEW, queue="few") for _ in range(3)]
    end(few, Outcome(400, "status 400"), 3)
    for _ in range(3):
        adder.add(url=VIEW, queue="few")
    assert_too_many(adder.post(f"@tasks/{ids[0]}/retry"))
    assert few.status(ids[0]).state == "failed"
    assert manager.post(f"@tasks/{ids[0]}/retry").status == 200
    assert adder.post(f"@tasks/{ids[0]}/retry").error == (409, "Conflict", None)


def test_run_is_not(adder, few):
    """No more tasks wait than before."""
    ids = [adder.add(url=VIEW, queue="few", delay=60) for _ in range(3)]
    assert adder.post(f"@tasks/{ids[0]}/run").json["state"] == "queued"


@pytest.mark.parametrize("path", ["/response?wait=30", "?wait=30"])
def test_a_task_does_not_wait_for_another(adder, queue, monkeypatch, path):
    """It would hold a consumer, which the other one may need."""
    monkeypatch.setattr(tasks, "wait_until_finished", lambda look, seconds: pytest.fail("waits"))
    other = adder.add(url=VIEW, delay=3600)
    fields = {"url": f"/plone/@tasks/{other}{path}", "headers": {"Accept": "application/json"}}
    ids = [adder.add(**fields) for _ in range(2)]
    runs = {run.task.id: run.outcome for run in run_tasks()}
    assert {runs[task_id].status for task_id in ids} <= {200, 202}
    assert all(other in runs[task_id].body.decode() for task_id in ids)
