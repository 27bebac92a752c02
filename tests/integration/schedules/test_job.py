"""The task of a tick: as whom it runs, and where the public sees it."""

from AccessControl import getSecurityManager
from collective.taskqueue.config.settings import ScheduleSettings
from collective.taskqueue.enqueue import outbox
from collective.taskqueue.schedules.job import entry
from collective.taskqueue.schedules.job import job
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing.contract.base import BOUND
from Products.PluggableAuthService.events import PrincipalDeleted
from Products.SiteAccess.VirtualHostMonster import manage_addVirtualHostMonster
from zope.event import notify
import pytest
import transaction


TICK = 1_749_999_600.0


@pytest.fixture
def make(queue, portal):
    """Return the task of a tick, with the view of the test as the url."""

    def make(url, tick=TICK, **fields):
        settings = ScheduleSettings(name="nightly", url=url, period=60.0, **fields)
        return job(settings, queue.settings, portal._p_jar.db(), tick)

    return make


@pytest.fixture
def who(view):
    """A view that returns its user and url."""

    def who(context, request):
        return f"{getSecurityManager().getUser().getId()} {context.absolute_url()}"

    return view("who", who)


@pytest.fixture
def jane(portal):
    """A user of the site; committed."""
    portal.acl_users.userFolderAddUser("jane", "secret-secret", ["Member"], [])
    transaction.commit()
    return Identity("/".join(portal.acl_users.getPhysicalPath()), "jane")


def outcome(queue, task):
    queue.put(task)
    run_tasks()
    return queue.status(task.id)


def test_the_same_id_in_all_processes(make, who):
    assert make(who).id == make(who).id
    ids = {make(who, tick).id for tick in (TICK, TICK + 60, TICK + 0.5)}
    assert len(ids) == 3


def test_without_a_user_it_is_anonymous(queue, make, who):
    status = outcome(queue, make(who))
    assert status.state == SUCCEEDED
    assert status.result.body.startswith(b"None ")


@pytest.mark.parametrize("is_named", [False, True])
def test_as_a_user(queue, make, who, jane, is_named):
    """The user folder is named, or is the nearest above the url that knows the user."""
    task = make(who, user="jane", user_folder=jane.folder if is_named else "")
    assert task.user == jane
    status = outcome(queue, task)
    assert status.state == SUCCEEDED
    assert status.result.body.startswith(b"jane ")


def test_a_user_of_the_root(make, who, portal, jane):
    """Not found in the site: the next folder above it."""
    portal.getPhysicalRoot().acl_users.users.addUser("janitor", "janitor", "secret-secret")
    transaction.commit()
    assert make(who, user="janitor").user == Identity("/acl_users", "janitor")


def test_a_user_that_is_gone(queue, make, who, jane, portal):
    """The task fails, and says so."""
    portal.acl_users.userFolderDelUsers(["jane"])
    transaction.commit()
    # What she had queued is cancelled; this is queued later.
    assert outbox.flush(BOUND)
    status = outcome(queue, make(who, user="jane", user_folder=jane.folder))
    assert status.state == FAILED
    assert "queued by jane" in status.reason


def test_a_user_that_was_replaced(queue, make, who, jane, portal):
    """The schedule means who has the id now; the task of an earlier tick does not."""
    earlier = make(who, user="jane")
    portal.acl_users.userFolderDelUsers(["jane"])
    notify(PrincipalDeleted("jane"))
    portal.acl_users.userFolderAddUser("jane", "secret-secret", ["Member"], [])
    transaction.commit()
    assert outbox.flush(BOUND)
    task = make(who, TICK + 60, user="jane")
    assert task.user.generation > jane.generation
    assert outcome(queue, task).state == SUCCEEDED
    assert outcome(queue, earlier).state == FAILED


def test_public_urls(queue, make, who, portal):
    manage_addVirtualHostMonster(portal.getPhysicalRoot())
    transaction.commit()
    status = outcome(queue, make(who, host="https://www.example.org/cms"))
    assert status.result.body == b"None https://www.example.org/cms"
    task = make(who, TICK + 60, host="https://www.example.org", root="/")
    status = outcome(queue, task)
    path = "/".join(portal.getPhysicalPath())
    assert status.result.body == f"None https://www.example.org{path}".encode()


def test_options(make, who):
    task = make(who, max_attempts=3, timeout=60.0, description="Tidies up")
    assert (task.max_attempts, task.timeout, task.description) == (3, 60.0, "Tidies up")
    assert make(who).description == "nightly"


def test_overlap(make, who):
    skip, queued, parallel = (make(who, overlap=each) for each in ("skip", "queue", "parallel"))
    assert (skip.key, skip.on_conflict) == ("schedule nightly", "skip")
    assert (queued.key, queued.on_conflict) == ("schedule nightly", "after_running")
    assert parallel.key is None


def test_jitter(make, who):
    """The same in all processes, different from tick to tick, and within its limit."""
    dues = [make(who, TICK + 60 * number, jitter=30.0).due for number in range(20)]
    delays = [due - TICK - 60 * number for number, due in enumerate(dues)]
    assert all(0 <= delay <= 30 for delay in delays)
    assert len(set(delays)) == 20
    assert make(who, jitter=30.0).due == dues[0]
    assert make(who).due is None


def test_a_web_hook(make):
    task = make("https://www.example.org/hook", method="POST")
    assert (task.is_hook, task.method, task.payload) == (True, "POST", b"")
    assert (task.user, task.origin) == (None, None)


def test_nothing_of_the_database_is_kept_open(make, who, portal, jane):
    """The connection goes back to its pool, also if the path leads nowhere."""
    database = portal._p_jar.db()
    before = len(database.pool.all)
    for number in range(10):
        make(who, TICK + number, user="jane", host="https://www.example.org")
        make("/no/such/thing", TICK + number, user="jane", host="https://www.example.org")
    assert len(database.pool.all) <= before + 1


def test_what_this_process_ticks(queue, who, portal, jane):
    settings = ScheduleSettings(name="nightly", url=who, period=1.0, user="jane")
    ticking = entry(settings, portal._p_jar.db())
    ticking.tick()
    state = queue.storage.admin.schedule("nightly")
    assert queue.storage.admin.tick("nightly", state.last + 0.001, ticking._make(state.last))
    run_tasks()
    (run,) = queue.storage.admin.schedule("nightly").runs
    assert queue.status(run.task_id).result.body.startswith(b"jane ")
