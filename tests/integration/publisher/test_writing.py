"""What a task writes is saved if it succeeds, and only then."""

from collective.taskqueue import taskqueue
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.testing import run_tasks
from integration.publisher.conftest import BASIC
from plone.app.testing import setRoles
from plone.app.testing import TEST_USER_ID
from plone.protect.interfaces import IDisableCSRFProtection
import transaction


def test_write_on_get_persists(run, view, portal, http):
    """A task is not cross-site; the same from outside is what it is protected from."""
    setRoles(portal, TEST_USER_ID, ["Manager"])
    transaction.commit()

    def write(context, request):
        context.written = getattr(context, "written", 0) + 1
        return "<html><body>written</body></html>"

    url = view("write", write)
    http(url, HTTP_AUTHORIZATION=BASIC)
    transaction.begin()
    assert not hasattr(portal.aq_base, "written")
    assert run(url).outcome.ok
    assert portal.written == 1


def test_post_without_a_token_persists(run, view, portal):
    def write(context, request):
        context.written = IDisableCSRFProtection.providedBy(request)

    assert run(view("write", write), "POST", payload="a=1").outcome.ok
    assert portal.written is True


def test_tasks_of_a_task_that_fails_are_not_queued(run, view, queue):
    """C39."""

    def work(context, request):
        taskqueue.add("/plone/@@other")
        raise ValueError("no")

    assert not run(view("work", work)).outcome.ok
    assert len(queue) == 0
    assert run_tasks() == []


def test_task_whose_tasks_cannot_be_queued_fails(run, view, queue, portal, monkeypatch):
    """C34: the storage goes down while a task runs."""

    def work(context, request):
        context.half = True
        taskqueue.add("/plone/@@other")

        def stage(*args):
            raise StorageUnavailable("down")

        monkeypatch.setattr(queue.storage, "stage", stage)

    done = run(view("work", work))
    assert done.outcome.reason == "StorageUnavailable: down"
    assert not hasattr(portal.aq_base, "half")
