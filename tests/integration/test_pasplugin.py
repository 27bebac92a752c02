"""A task runs as the person who queued it, and nobody else can pretend to be a task."""

from AccessControl import getSecurityManager
from AccessControl.SecurityManagement import newSecurityManager
from Acquisition import aq_base
from Acquisition import aq_parent
from collective.taskqueue import taskqueue
from collective.taskqueue.attempt import Attempt
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.interfaces import ITaskQueueLayer
from collective.taskqueue.pasplugin.plugin import INTERFACES
from collective.taskqueue.pasplugin.plugin import is_active
from collective.taskqueue.pasplugin.plugin import TaskQueueAuthPlugin
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Task
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import task_queue
from plone.app.testing import applyProfile
from plone.app.testing import login
from plone.app.testing import logout
from plone.app.testing import setRoles
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD
from plone.app.testing import TEST_USER_ID
from plone.app.testing import TEST_USER_NAME
from plone.app.testing import TEST_USER_PASSWORD
from plone.protect import createToken
from Products.CMFPlone.factory import addPloneSite
from urllib.parse import urlencode
from zope.component import getUtility
from zope.component.hooks import setSite
from zope.interface import alsoProvides
from zope.schema.interfaces import IVocabularyFactory
from ZPublisher.HTTPResponse import HTTPResponse
import base64
import pytest
import transaction
import uuid


DEFAULT = "collective.taskqueue.pasplugin:default"
UNINSTALL = "collective.taskqueue.pasplugin:uninstall"


def basic(name, password):
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


OWNER = basic(SITE_OWNER_NAME, SITE_OWNER_PASSWORD)
MEMBER = basic(TEST_USER_NAME, TEST_USER_PASSWORD)


@pytest.fixture
def app(functional):
    return functional["app"]


@pytest.fixture
def without_plugin(portal):
    applyProfile(portal, UNINSTALL)
    transaction.commit()


@pytest.fixture
def who(view):
    """The url of a view for everybody that remembers who called it: user folder and id."""

    class Who(list):
        url = None

    found = Who()

    def look(context, request):
        user = getSecurityManager().getUser()
        folder = aq_parent(user)
        path = "/".join(folder.getPhysicalPath()) if user.getId() else None
        found.append((path, user.getId()))
        return str(user.getId())

    found.url = view("who", look)
    return found


@pytest.fixture
def adder(view, who):
    """The url of a view for everybody that queues a task which calls `who`."""
    return view("adder", lambda context, request: taskqueue.add(who.url))


def plugins(folder):
    """Ids of our plugins, and the places they have in the two lists."""
    ids = [item.getId() for item in folder.objectValues() if item.meta_type == META_TYPE]
    active = [folder.plugins.listPluginIds(interface) for interface in INTERFACES]
    return ids, [[line.index(name) for name in ids if name in line] for line in active]


META_TYPE = "Task Queue Auth Plugin"
IN_PLACE = (["taskauth"], [[0], [0]])
GONE = ([], [[], []])


# the profiles


def test_profile_puts_the_plugin_first(app, portal):
    """C104: in the folder of the site and in that of the root."""
    for folder in (portal.acl_users, app.acl_users):
        assert plugins(folder) == IN_PLACE
        assert is_active(folder)
    assert portal.acl_users.taskauth.title == "Task Queue PAS plugin"
    assert portal.acl_users.taskauth.meta_type == META_TYPE


def test_profile_can_be_applied_again(app, portal):
    """C104."""
    before = aq_base(portal.acl_users.taskauth)
    registry = portal.acl_users.plugins
    registry.movePluginsDown(INTERFACES[0], ["taskauth"])
    registry.deactivatePlugin(INTERFACES[1], "taskauth")
    assert not is_active(portal.acl_users)
    for _ in range(2):
        applyProfile(portal, DEFAULT)
        for folder in (portal.acl_users, app.acl_users):
            assert plugins(folder) == IN_PLACE
    assert aq_base(portal.acl_users.taskauth) is before


def test_profile_keeps_a_plugin_of_another_name(portal):
    """C104: one plugin is enough."""
    applyProfile(portal, UNINSTALL)
    portal.acl_users._setObject("mine", TaskQueueAuthPlugin("mine"))
    applyProfile(portal, DEFAULT)
    assert plugins(portal.acl_users) == (["mine"], [[0], [0]])


def test_uninstall(app, portal):
    """C104."""
    for _ in range(2):
        applyProfile(portal, UNINSTALL)
        for folder in (portal.acl_users, app.acl_users):
            assert plugins(folder) == GONE
            assert not is_active(folder)
    applyProfile(portal, DEFAULT)
    assert plugins(portal.acl_users) == plugins(app.acl_users) == IN_PLACE


def test_uninstall_leaves_the_root_to_other_sites(app, portal):
    app.manage_addFolder("customers")
    login(app, SITE_OWNER_NAME)
    other = addPloneSite(app.customers, "other", extension_ids=[DEFAULT])
    assert plugins(other.acl_users) == IN_PLACE
    setSite(portal)
    applyProfile(portal, UNINSTALL)
    assert plugins(portal.acl_users) == GONE
    assert plugins(app.acl_users) == IN_PLACE
    setSite(other)
    other.portal_setup.runAllImportStepsFromProfile(f"profile-{UNINSTALL}")
    assert plugins(app.acl_users) == GONE


# who a task is


def test_user_of_the_site(who):
    """C101, C102: without any cookie or password."""
    taskqueue.add(who.url)
    transaction.commit()
    (run,) = run_tasks()
    assert run.outcome.ok
    assert who == [("/plone/acl_users", TEST_USER_ID)]


def test_user_of_the_root(app, who):
    """D10: in a site with a user folder of its own, too."""
    login(app, SITE_OWNER_NAME)
    taskqueue.add(who.url)
    taskqueue.add("/@@who")
    transaction.commit()
    assert [run.outcome.ok for run in run_tasks()] == [True, True]
    assert who == [("/acl_users", SITE_OWNER_NAME)] * 2


def test_users_of_one_id(app, portal, who):
    """D10: an id means nothing without its user folder."""
    portal.acl_users.source_users.addUser(SITE_OWNER_NAME, "login", "secret")
    for folder in (app.acl_users, portal.acl_users, app.acl_users):
        newSecurityManager(None, folder.getUserById(SITE_OWNER_NAME).__of__(folder))
        taskqueue.add(who.url)
    transaction.commit()
    assert all(run.outcome.ok for run in run_tasks())
    folders = [path for path, _ in who]
    assert folders == ["/acl_users", "/plone/acl_users", "/acl_users"]


def test_anonymous(who):
    """C101."""
    logout()
    taskqueue.add(who.url)
    transaction.commit()
    assert run_tasks()[0].outcome.ok
    assert who == [(None, None)]


@pytest.mark.parametrize("folder", ["site", "root"])
def test_user_who_is_gone(app, portal, who, folder):
    """C102, D13: the task fails, also for a public view, and the view is never called."""
    acl_users = portal.acl_users if folder == "site" else app.acl_users
    users = acl_users.source_users if folder == "site" else acl_users.users
    users.addUser("gone", "gone", "secret-secret")
    newSecurityManager(None, acl_users.getUserById("gone").__of__(acl_users))
    taskqueue.add(who.url, max_attempts=3)
    users.removeUser("gone")
    transaction.commit()
    (run,) = run_tasks()
    assert not run.outcome.ok
    assert "gone" in run.outcome.reason
    assert "cannot be authenticated any more" in run.outcome.reason
    assert run.status.state == "failed"
    assert who == []


@pytest.mark.parametrize("folder", ["site", "root"])
def test_user_who_is_gone_is_told_of_a_protected_view_too(app, portal, view, folder):
    """C102: not that they are not authorized, as if more roles could mend it."""
    url = view("guarded", lambda context, request: "never", roles=["Manager"])
    acl_users = portal.acl_users if folder == "site" else app.acl_users
    users = acl_users.source_users if folder == "site" else acl_users.users
    users.addUser("gone", "gone", "secret-secret")
    newSecurityManager(None, acl_users.getUserById("gone").__of__(acl_users))
    taskqueue.add(url)
    users.removeUser("gone")
    transaction.commit()
    (run,) = run_tasks()
    place = "/".join(acl_users.getPhysicalPath())
    expected = f"queued by gone of {place}, who cannot be authenticated any more"
    assert expected in run.outcome.reason
    assert "You are not authorized" not in run.outcome.reason


def test_user_who_asks_for_the_same_work(portal, who):
    """A task that waits stays who it is, whoever is skipped for it."""
    first = taskqueue.add(who.url, key="work")
    transaction.commit()
    portal.acl_users.source_users.addUser("other", "other", "secret-secret")
    newSecurityManager(None, portal.acl_users.getUserById("other").__of__(portal.acl_users))
    second = taskqueue.add(who.url, key="work")
    transaction.commit()
    (run,) = run_tasks()
    assert run.task.id == first == taskqueue.status(second).id
    assert who == [("/plone/acl_users", TEST_USER_ID)]


def test_user_who_may_not(functional, portal, view):
    """They are there, and lack a role: so it says."""
    url = view("guarded", lambda context, request: "never", roles=["Manager"])
    setRoles(portal, TEST_USER_ID, ["Member"])
    taskqueue.add(url)
    transaction.commit()
    (run,) = run_tasks()
    assert "You are not authorized" in run.outcome.reason
    assert "queued by" not in run.outcome.reason


@pytest.mark.parametrize("roles", [None, ["Manager"]])
def test_user_of_a_site_at_the_root(functional, view, roles):
    """The url is the path from the root of Zope, not that of the browser: so it says."""
    view("guarded", lambda context, request: "never", roles=roles)
    taskqueue.add("/@@guarded?token=secret")
    transaction.commit()
    (run,) = run_tasks()
    assert run.outcome.reason == (
        f"Unauthorized: queued by {TEST_USER_ID} of /plone/acl_users, whose users are not known"
        " at /@@guarded"
    )


def test_user_who_is_gone_while_another_one_has_the_id(queue, who):
    """D10, D13: not even if that other one is who the headers authenticate."""
    user = Identity("/plone/acl_users", SITE_OWNER_NAME)
    queue.put(put_task(who.url, user, "Authorization", OWNER))
    (run,) = run_tasks()
    assert not run.outcome.ok
    assert who == []


def test_user_outside_of_the_site(who):
    """A user of the site is nobody in the root: refused rather than run as Anonymous."""
    taskqueue.add("/@@who")
    transaction.commit()
    (run,) = run_tasks()
    assert run.outcome.status == 401
    assert who == []


def test_plugin_that_was_removed_meanwhile(portal, who):
    """C102: the task has nothing else to show."""
    taskqueue.add(who.url)
    applyProfile(portal, UNINSTALL)
    transaction.commit()
    (run,) = run_tasks()
    assert not run.outcome.ok
    assert who == []


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("name", ["Authorization", "X-Task-User-Id"])
def test_headers_of_somebody_else_in_the_queue(portal, queue, who, active, name):
    """D13: whoever the headers authenticate, it is who queued it or nobody."""
    if not active:
        applyProfile(portal, UNINSTALL)
        transaction.commit()
    value = OWNER if name == "Authorization" else SITE_OWNER_NAME
    user = Identity("/plone/acl_users", TEST_USER_ID)
    queue.put(put_task(who.url, user, name, value))
    (run,) = run_tasks()
    assert run.outcome.ok is active
    assert who == ([("/plone/acl_users", TEST_USER_ID)] if active else [])


def put_task(url, user, name, value):
    task_id = str(uuid.uuid4())
    return Task(id=task_id, queue="default", url=url, headers=((name, value),), user=user)


def test_permissions_are_checked(portal, view):
    """C105: of who queued it, as for any other request."""
    url = view("manage", lambda context, request: "done", ITaskQueueLayer, roles=("Manager",))
    taskqueue.add(url)
    transaction.commit()
    (run,) = run_tasks()
    assert "Unauthorized" in run.outcome.reason
    setRoles(portal, TEST_USER_ID, ["Manager"])
    taskqueue.add(url)
    transaction.commit()
    (run,) = run_tasks()
    assert run.outcome.body == b"done"


# requests from outside

SPELLINGS = ["HTTP_X_TASK_USER_ID", "HTTP_X_TASK_USER-ID", "HTTP_x_task_user_id", "X-Task-User-Id"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("user_id", [SITE_OWNER_NAME, TEST_USER_ID])
def test_forged_header(who, view, http, spelling, user_id):
    """C102, D01: a browser that sends it is Anonymous."""
    secret = view("secret", lambda context, request: "secret", roles=("Manager", "Member"))
    forged = {spelling: user_id, "HTTP_X_TASK_ID": str(uuid.uuid4())}
    assert http(who.url, **forged)[2] == b"None"
    status, _, body = http(secret, **forged)
    assert status in (302, 401)
    assert b"secret" not in body


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_forged_header_that_is_copied(who, adder, http, spelling):
    """C101, D01: the task of an anonymous visitor is Anonymous."""
    http(adder, **{spelling: SITE_OWNER_NAME})
    (run,) = run_tasks()
    assert run.task.user is None
    assert who == [(None, None)]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_forged_header_of_a_member(who, adder, http, spelling):
    """D01: a member stays who they are."""
    http(adder, HTTP_AUTHORIZATION=MEMBER, **{spelling: SITE_OWNER_NAME})
    run_tasks()
    assert who == [("/plone/acl_users", TEST_USER_ID)]


@pytest.mark.parametrize("name", ["X-Task-User-Id", "x-task-user-id", "X_Task_User_Id"])
def test_forged_header_of_code(who, name):
    """D01: nor can code that lets its caller choose a header."""
    logout()
    taskqueue.add(who.url, headers={name: SITE_OWNER_NAME})
    transaction.commit()
    run_tasks()
    assert who == [(None, None)]


def test_form_of_a_request_is_no_identity(who, http):
    """A request looks up what it does not know in its form."""
    form = "?attempt=x&attempt.task.user.id=admin&user=admin&X-Task-User-Id=admin"
    assert http(f"{who.url}{form}")[2] == b"None"


def test_request_that_is_only_marked(current_request, portal):
    """The interface alone is not believed."""
    request = current_request("/", QUERY_STRING="attempt=x", HTTP_X_TASK_USER_ID=TEST_USER_ID)
    alsoProvides(request, ITaskQueueLayer)
    assert request["attempt"] == "x"
    assert portal.acl_users.taskauth.extractCredentials(request) == {}


def test_request_that_is_not_marked(current_request, portal, queue):
    """Nor is an attempt that somebody has hung on a request from outside."""
    task = put_task("/plone", Identity("/plone/acl_users", TEST_USER_ID), "X-A", "1")
    request = current_request("/")
    request.attempt = Attempt(Lease(task, "token", "consumer", 1, 0, 0.0), queue.storage)
    extract = portal.acl_users.taskauth.extractCredentials
    assert extract(request) == {}
    alsoProvides(request, ITaskQueueLayer)
    assert extract(request) == {"login": TEST_USER_ID}


@pytest.mark.parametrize("extractor", ["credentials_basic_auth", "", None])
def test_credentials_of_other_extractors(portal, extractor):
    """C102: a login name from a form must not be taken for an id from a task."""
    credentials = {"login": TEST_USER_ID, "extractor": extractor}
    assert portal.acl_users.taskauth.authenticateCredentials(credentials) is None


# secrets


def test_no_secret_reaches_the_task(view, http):
    """D11: neither does the request have one, nor what is stored."""
    seen = []

    def look(context, request):
        seen.append((request.getHeader("Cookie"), request.cookies, request._auth))

    url = view("look", look)
    view("adder", lambda context, request: taskqueue.add(url))
    http("/plone/@@adder", HTTP_AUTHORIZATION=MEMBER, HTTP_COOKIE="__ac=secret; other=1")
    (run,) = run_tasks()
    assert run.outcome.ok
    assert run.task.user.id == TEST_USER_ID
    assert seen == [(None, {}, None)]
    stored = repr(run.task.encode())
    assert MEMBER not in stored
    assert "secret" not in stored


def test_basic_authentication_without_the_plugin(without_plugin, who, adder, http):
    """C100: as the current request is."""
    http(adder, HTTP_AUTHORIZATION=MEMBER)
    http(adder, HTTP_AUTHORIZATION=OWNER)
    assert [run.outcome.ok for run in run_tasks()] == [True, True]
    assert who == [("/plone/acl_users", TEST_USER_ID), ("/acl_users", SITE_OWNER_NAME)]


def test_session_cookie_without_the_plugin(without_plugin, portal, who, adder, http):
    """C100."""
    response = HTTPResponse()
    portal.acl_users.session._setupSession(TEST_USER_ID, response)
    transaction.commit()
    cookie = response.cookies["__ac"]["value"].decode()
    http(adder, HTTP_COOKIE=f'__ac="{cookie}"')
    (run,) = run_tasks()
    assert run.outcome.ok
    assert who == [("/plone/acl_users", TEST_USER_ID)]


def test_password_that_was_changed_without_the_plugin(without_plugin, portal, who, adder, http):
    """D13: then nobody is asked, not even Anonymous."""
    http(adder, HTTP_AUTHORIZATION=MEMBER)
    portal.acl_users.source_users.updateUserPassword(TEST_USER_ID, "new-secret")
    transaction.commit()
    (run,) = run_tasks()
    assert not run.outcome.ok
    assert who == []


def test_login_of_a_test_without_the_plugin(without_plugin, who):
    """What the layer of collective.taskqueue.testing has the plugin for."""
    taskqueue.add(who.url)
    transaction.commit()
    (run,) = run_tasks()
    assert not run.outcome.ok
    assert who == []


# the ZMI

ADD = "/acl_users/manage_addProduct/collective.taskqueue.pasplugin/"


def test_plugin_can_be_added(app):
    """C103."""
    (found,) = [item for item in app.acl_users.all_meta_types() if item["name"] == META_TYPE]
    assert found["permission"] == "Add User Folders"
    assert found["action"].endswith("/manage_addTaskQueueAuthPluginForm")


def test_add_form(http):
    """C103."""
    url = f"{ADD}manage_addTaskQueueAuthPluginForm"
    assert http(url)[0] == 401
    status, _, body = http(url, HTTP_AUTHORIZATION=OWNER)
    assert status == 200
    assert b'value="taskauth"' in body
    assert b'action="manage_addTaskQueueAuthPlugin"' in body


def test_add(app, http):
    """C103."""
    login(app, SITE_OWNER_NAME)
    form = {"id": "mine", "title": "My plugin", "_authenticator": createToken()}
    transaction.commit()
    status, headers, _ = http(
        f"{ADD}manage_addTaskQueueAuthPlugin",
        "POST",
        urlencode(form).encode(),
        CONTENT_TYPE="application/x-www-form-urlencoded",
        HTTP_AUTHORIZATION=OWNER,
    )
    assert status == 302
    assert headers["Location"].endswith("/acl_users/manage_workspace")
    transaction.begin()
    assert app.acl_users.mine.title == "My plugin"
    assert isinstance(aq_base(app.acl_users.mine), TaskQueueAuthPlugin)


@pytest.mark.parametrize("name", ["extractCredentials", "authenticateCredentials"])
def test_plugin_is_not_published(http, name):
    """What it can do is nothing for a browser."""
    assert http(f"/acl_users/taskauth/{name}", HTTP_AUTHORIZATION=OWNER)[0] in (401, 404)


# the vocabulary


def test_vocabulary(functional):
    """C49."""
    with task_queue("mails") as mails:
        vocabulary = getUtility(IVocabularyFactory, "collective.taskqueue.queues")(None)
        assert [(term.token, term.title) for term in vocabulary] == [
            ("default", "default"),
            ("mails", "mails"),
        ]
        assert vocabulary.getTermByToken("mails").value is mails
        assert vocabulary.getTerm(getUtility(ITaskQueue, name="default")).token == "default"
