"""What a task takes along, and what `add()` refuses."""

from AccessControl.SecurityManagement import newSecurityManager
from AccessControl.users import system
from AccessControl.users import UnrestrictedUser
from collective.taskqueue import taskqueue
from collective.taskqueue.datamanager import pending
from collective.taskqueue.errors import UnknownQueue
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.task import Identity
from collective.taskqueue.testing import task_queue
from OFS.Folder import Folder
from pathlib import Path
from plone.app.testing import applyProfile
from plone.app.testing import login
from plone.app.testing import logout
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import TEST_USER_ID
from zope.component import getGlobalSiteManager
from zope.globalrequest import setRequest
import ast
import base64
import collective.taskqueue
import inspect
import io
import pytest
import transaction
import uuid


URL = "/plone/@@view"
BASIC = "Basic " + base64.b64encode(b"test-user:secret").decode()


@pytest.fixture
def added(queue):
    """Add a task and return it as it would be queued."""

    def add(url=URL, *args, **kwargs):
        task_id = taskqueue.add(url, *args, **kwargs)
        task = pending(queue)[-1]
        assert task.id == task_id
        return task

    return add


@pytest.fixture
def without_plugin(portal):
    applyProfile(portal, "collective.taskqueue.pasplugin:uninstall")
    transaction.commit()


def headers(task):
    return dict(task.headers)


# the call


def test_signature():
    """C01."""
    names = list(inspect.signature(taskqueue.add).parameters)
    assert names[:6] == ["url", "method", "params", "headers", "payload", "queue"]


def test_positional(functional):
    """C01."""
    with task_queue("q") as queue:
        taskqueue.add("/a", "POST", {"k": 1}, {"H": "v"}, b"x", "q")
        (task,) = pending(queue)
    assert (task.url, task.method, task.payload, task.queue) == ("/a?k=1", "POST", b"x", "q")
    assert headers(task)["H"] == "v"


def test_id_is_known_before_the_commit(queue):
    """C02."""
    first, second = taskqueue.add(URL), taskqueue.add(URL)
    assert uuid.UUID(first).version == uuid.UUID(second).version == 4
    assert first != second
    transaction.commit()
    assert [status.id for status in queue.tasks()] == [first, second]


def test_without_a_request(added):
    """C24."""
    setRequest(None)
    task = added()
    assert (task.headers, task.payload, task.origin) == ((), b"", None)


# url


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/plone/@@view", "/plone/@@view"),
        ("plone/@@view", "/plone/@@view"),
        ("//plone/@@view", "/plone/@@view"),
        ("  /plone/@@view  ", "/plone/@@view"),
        ("/", "/"),
        ("/plone/%C3%A4/@@view?a=1", "/plone/%C3%A4/@@view?a=1"),
        ("/plone/ä", "/plone/ä"),
        ("/plone/view;a=1", "/plone/view;a=1"),
        ("/plone/view?a=1#fragment", "/plone/view?a=1"),
        ("/plone/at:colon", "/plone/at:colon"),
        ("/plone/view?next=http://example.org", "/plone/view?next=http://example.org"),
    ],
)
def test_url(added, given, expected):
    """C05."""
    assert added(given).url == expected


@pytest.mark.parametrize(
    ("params", "query"),
    [
        (None, ""),
        ({}, ""),
        ({"b": "2"}, "?b=2"),
        ({"n": 2, "t": True}, "?n=2&t=True"),
        ({"l": ["1", "2"], "u": "ä"}, "?l=1&l=2&u=%C3%A4"),
        ([("a", "1"), ("a", "2")], "?a=1&a=2"),
        ({"a": "x&y=z #+"}, "?a=x%26y%3Dz+%23%2B"),
        ({"l:list": ["1"]}, "?l%3Alist=1"),
    ],
)
def test_params(added, params, query):
    """C08, C09, D42."""
    assert added("/v", params=params).url == f"/v{query}"
    assert added("/v?a=1#f", params=params).url == f"/v?a=1{query.replace('?', '&')}"
    assert added("/v", "POST", params=params).url == f"/v{query}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, "GET"), ("get", "GET"), ("Post", "POST"), ("PUT", "PUT"), ("delete", "DELETE")],
)
def test_method(added, given, expected):
    """C07: normalised."""
    assert added(method=given).method == expected


# headers


def test_headers_of_the_current_request_are_copied(added, current_request):
    """C10."""
    current_request(HTTP_ACCEPT_LANGUAGE="fi", HTTP_X_CUSTOM="mine", HTTP_REFERER="/from")
    assert headers(added()) == {"Accept-Language": "fi", "X-Custom": "mine", "Referer": "/from"}


NOT_COPIED = """
    ACCEPT ACCEPT_ENCODING CONNECTION KEEP_ALIVE TE TRAILER TRANSFER_ENCODING UPGRADE EXPECT
    PROXY_AUTHORIZATION PROXY_CONNECTION HOST RANGE IF_RANGE IF_MATCH IF_NONE_MATCH
    IF_MODIFIED_SINCE IF_UNMODIFIED_SINCE CONTENT_TYPE CONTENT_LENGTH CONTENT_ENCODING
    CONTENT_MD5 FORWARDED X_FORWARDED_FOR X_FORWARDED_HOST X_FORWARDED_PROTO X_REAL_IP VIA
    SEC_FETCH_SITE SEC_CH_UA USER_AGENT X_HTTP_METHOD_OVERRIDE X_TASK_ID X_TASK_USER_ID
    X_TASK_QUEUE X_TASK_ATTEMPT X_TASK_ANYTHING
"""


@pytest.mark.parametrize("key", NOT_COPIED.split())
def test_headers_that_are_not_copied(added, current_request, key):
    """C11, D01, D12: they mean a connection, a cache or a browser, and not the task."""
    current_request(**{f"HTTP_{key}": "100"})
    assert headers(added()) == {}


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "a\rb", "a\0b", "a\x7fb", "", "  "])
def test_copied_headers_that_no_one_should_have_sent(added, current_request, value):
    """D14."""
    current_request(HTTP_X_CUSTOM=value, HTTP_X_FINE="fine")
    assert headers(added()) == {"X-Fine": "fine"}


@pytest.mark.parametrize("name", ["Accept-Language", "accept-language", "ACCEPT_LANGUAGE"])
def test_own_headers_win(added, current_request, name):
    """C13, D44: whatever their case, and there is one value only."""
    current_request(HTTP_ACCEPT_LANGUAGE="fi")
    assert added(headers={name: "sv"}).headers == ((name, "sv"),)


def test_own_headers_of_one_name(added):
    """D44."""
    assert added(headers={"X-A": "1", "x-a": "2", "x_a": "3"}).headers == (("x_a", "3"),)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, "true"), (False, "false"), (3, "3"), ("ä€", "ä€"), (" a:b ", "a:b"), ("a\tb", "a\tb")],
)
def test_values_of_own_headers(added, value, expected):
    """C14, C15."""
    assert headers(added(headers={"X-A": value})) == {"X-A": expected}


@pytest.mark.parametrize("value", ["", "   "])
def test_empty_own_headers_are_dropped(added, value):
    """C15."""
    assert added(headers={"X-A": value}).headers == ()


@pytest.mark.parametrize(
    "name",
    ["X-Task-User-Id", "x-task-user-id", "X_Task_User_Id", "x-TASK_user-ID", "X-Task-Anything"],
)
def test_own_task_headers_are_dropped(added, name):
    """C03, D01: they are the publisher's to set."""
    assert added(headers={name: "admin"}).headers == ()


def test_arguments_are_not_changed(added, current_request, portal):
    """C26, D40."""
    current_request(HTTP_ACCEPT_LANGUAGE="fi", HTTP_COOKIE="a=b")
    own = {"X-A": " 1 ", "X-Task-Id": "x", "Content-Type": "text/plain"}
    params = {"l": ["1", "2"]}
    payload = bytearray(b"abc")
    task = added(params=params, headers=own, payload=payload)
    assert own == {"X-A": " 1 ", "X-Task-Id": "x", "Content-Type": "text/plain"}
    assert params == {"l": ["1", "2"]}
    payload[0] = 0
    assert task.payload == b"abc"


# payload

FORM = b"a=1&b=2"
FORM_TYPE = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
def test_body_of_the_current_request(added, current_request, method):
    """C17: with its type; and the request can still read it."""
    request = current_request("/", method, FORM, CONTENT_TYPE=f"{FORM_TYPE}; charset=utf-8")
    request.stdin.seek(2)
    task = added(method="POST")
    assert task.payload == FORM
    assert headers(task) == {"Content-Type": f"{FORM_TYPE}; charset=utf-8"}
    assert request.stdin.tell() == 2


def test_encoded_body_of_the_current_request(added, current_request):
    current_request("/", "PUT", b"\x1f", CONTENT_TYPE="text/plain", HTTP_CONTENT_ENCODING="gzip")
    task = added(method="POST")
    assert headers(task) == {"Content-Type": "text/plain", "Content-Encoding": "gzip"}


def test_body_of_the_current_request_with_an_own_type(added, current_request):
    current_request("/", "POST", FORM, CONTENT_TYPE=FORM_TYPE)
    assert headers(added(headers={"content-type": "text/plain"})) == {"content-type": "text/plain"}


def test_post_from_a_request_without_a_body(added, current_request):
    """C20."""
    current_request("/", CONTENT_TYPE="", CONTENT_LENGTH="")
    task = added(method="POST")
    assert (task.method, task.payload, task.headers) == ("POST", b"", ())


@pytest.mark.parametrize("length", ["", "0", "-1", "many"])
def test_body_without_a_length_is_none(added, current_request, length):
    """Nothing is read that may never come."""
    request = current_request("/", "GET", FORM)
    request._orig_env["CONTENT_LENGTH"] = length
    assert added().payload == b""


def test_body_that_cannot_be_read_twice(added, current_request):
    class Socket(io.BytesIO):
        def seekable(self):
            return False

    request = current_request("/", "POST", FORM, CONTENT_TYPE="text/plain")
    request.stdin = Socket(FORM)
    assert added().payload == b""
    assert request.stdin.read() == FORM


class Plain:
    """All that a WSGI server has to offer: no `seekable`, no `tell`."""

    def __init__(self, body):
        self._body = io.BytesIO(body)
        self.read = self._body.read


class Rewindable(Plain):
    """All that Zope needs for a retry."""

    def __init__(self, body):
        super().__init__(body)
        self.seek = self._body.seek


@pytest.mark.parametrize(("stream", "payload"), [(Plain, b""), (Rewindable, FORM)])
def test_body_in_a_stream_that_can_do_little(added, current_request, stream, payload):
    """C17: it is copied if that can be done, and it can still be read afterwards."""
    request = current_request("/", "POST", FORM, CONTENT_TYPE="text/plain")
    request.stdin = stream(FORM)
    assert added().payload == payload
    assert request.stdin.read() == FORM


def test_no_payload(added, current_request):
    """C18."""
    current_request("/", "POST", FORM, CONTENT_TYPE=FORM_TYPE)
    task = added(method="POST", payload=None)
    assert (task.payload, task.headers) == (b"", ())


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"\xff\0", b"\xff\0"),
        ("ä", "ä".encode()),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
    ],
)
def test_own_payload(added, current_request, payload, expected):
    """C12, C19, D43: nothing of the current body, and a type that Zope parses."""
    current_request("/", "POST", FORM, CONTENT_TYPE="text/plain", HTTP_CONTENT_ENCODING="gzip")
    task = added(method="POST", payload=payload)
    assert task.payload == expected
    assert headers(task) == {"Content-Type": FORM_TYPE}


def test_own_payload_with_an_own_type(added):
    """C19."""
    own = {"Content-Type": "application/json", "Content-Length": "999"}
    task = added(method="POST", payload=b"{}", headers=own)
    assert headers(task) == {"Content-Type": "application/json"}


def test_largest_payload(functional):
    with task_queue("q", max_payload=10) as queue:
        taskqueue.add(URL, payload=b"x" * 10, queue="q")
        with pytest.raises(ValueError, match=r"max_payload \(10 bytes\)"):
            taskqueue.add(URL, payload=b"x" * 11, queue="q")
        assert len(pending(queue)) == 1


def test_current_body_that_is_too_large(functional, current_request):
    current_request("/", "POST", b"x" * 11, CONTENT_TYPE="text/plain")
    message = "body of the current request; payload=None leaves it out"
    with task_queue("q", max_payload=10), pytest.raises(ValueError, match=message):
        taskqueue.add(URL, queue="q")
    assert transaction.get()._resources == []


# bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": ""}, "needs a url"),
        ({"url": "   "}, "needs a url"),
        ({"url": None}, "needs a url"),
        ({"url": b"/x"}, "needs a url"),
        ({"url": "/a\r\nX-Task-User-Id: admin"}, "control characters"),
        ({"url": "/a\0"}, "control characters"),
        ({"url": "/a\n"}, "control characters"),
        ({"url": "ftp://example.org/"}, "ftp: urls cannot be queued"),
        ({"url": "javascript:alert(1)"}, "javascript: urls cannot be queued"),
        ({"url": "file:///etc/passwd"}, "file: urls cannot be queued"),
        ({"url": "/%FF"}, "no UTF-8"),
        ({"url": "/%C3%28?a=1"}, "no UTF-8"),
        ({"url": "/\udc80"}, "no UTF-8"),
        ({"url": "/a?b=\udc80"}, "no UTF-8"),
        ({"method": "BREW"}, "method must be one of"),
        ({"method": "GET /x"}, "method must be one of"),
        ({"method": ""}, "method must be one of"),
        ({"method": b"GET"}, "method must be one of"),
        ({"method": "OPTIONS"}, "method must be one of"),
        ({"headers": {"X-A": "a\r\nX-Task-User-Id: admin"}}, "control characters"),
        ({"headers": {"X-A": "a\nb"}}, "control characters"),
        ({"headers": {"X-A": "a\0"}}, "control characters"),
        ({"headers": {"X-A\r\nX-B": "a"}}, "not the name of a header"),
        ({"headers": {"X A": "a"}}, "not the name of a header"),
        ({"headers": {"X-A:": "a"}}, "not the name of a header"),
        ({"headers": {"": "a"}}, "not the name of a header"),
        ({"headers": {"Ä": "a"}}, "not the name of a header"),
        ({"headers": {b"X-A": "a"}}, "not the name of a header"),
        ({"headers": {"X-A": b"a"}}, "no text, number or boolean"),
        ({"headers": {"X-A": None}}, "no text, number or boolean"),
        ({"headers": {"X-A": ["a"]}}, "no text, number or boolean"),
        ({"headers": {"X-A": "\udc80"}}, "header X-A"),
        ({"payload": 3}, "bytes, text or None"),
        ({"payload": {"a": "1"}}, "bytes, text or None"),
        ({"payload": "\udc80"}, "surrogates"),
        ({"params": {"a": "\udc80"}}, "surrogates"),
        ({"params": 3}, "params"),
        ({"params": ["a"]}, "params"),
        ({"headers": [("X-A", "1")]}, "headers"),
        ({"delay": -1}, "delay"),
        ({"colour": "red"}, "unknown option 'colour'"),
    ],
)
def test_bad_input_joins_nothing(functional, arguments, message):
    """C04, C07, D14, D41, D45."""
    with pytest.raises(ValueError, match=message):
        taskqueue.add(**{"url": URL, **arguments})
    assert transaction.get()._resources == []


def test_no_url_at_all(functional):
    """C04."""
    with pytest.raises(TypeError):
        taskqueue.add()
    assert transaction.get()._resources == []


def test_nothing_is_validated_by_assert():
    """C04, D45: `python -O` changes nothing."""
    folder = Path(collective.taskqueue.__path__[0])
    found = [
        f"{path.relative_to(folder)}:{node.lineno}"
        for path in folder.rglob("*.py")
        if not {"contract", "model"} & set(path.parts)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert found == []


# queues


def test_first_queue_is_the_default(functional):
    """C21."""
    with task_queue("b") as b, task_queue("a") as a:
        taskqueue.add(URL)
        taskqueue.add(URL, queue=None)
        assert (len(pending(a)), len(pending(b))) == (2, 0)


def test_unknown_queue(queue):
    """C22: an error that names the known ones, nothing is queued anywhere."""
    with task_queue("mails"), pytest.raises(UnknownQueue, match=r"'typo' \(known: default, mails"):
        taskqueue.add(URL, queue="typo")
    assert transaction.get()._resources == []


@pytest.fixture
def no_queue(queue):
    registry = getGlobalSiteManager()
    registry.unregisterUtility(queue, ITaskQueue, name="default")
    yield
    registry.registerUtility(queue, ITaskQueue, name="default")


def test_no_queue_at_all(no_queue):
    """C23."""
    with pytest.raises(UnknownQueue, match=r"no task queue at all .*<taskqueue> section"):
        taskqueue.add(URL)
    with pytest.raises(UnknownQueue):
        taskqueue.reset()
    assert transaction.get()._resources == []


def test_reset_of_an_unknown_queue(queue):
    """C25, D26: nothing is deleted."""
    taskqueue.add(URL)
    transaction.commit()
    with pytest.raises(UnknownQueue, match="'typo'"):
        taskqueue.reset("typo")
    assert len(queue) == 1


def test_reset(queue):
    """C25, D25: one queue only, and running tasks stay."""
    with task_queue("default-2") as other:
        for name in ("default", "default", "default-2"):
            taskqueue.add(URL, queue=name)
        taskqueue.add(URL, queue="default", delay=3600)
        transaction.commit()
        queue.get("somebody")
        assert taskqueue.reset("default") == 2
        assert len(other) == 1
    counts = queue.counts()
    assert (counts["queued"], counts["scheduled"], counts["running"]) == (0, 0, 1)


# who


def test_user_of_the_site(added):
    assert added().user == Identity("/plone/acl_users", TEST_USER_ID)


def test_user_of_the_root(added, functional):
    """D10: the same id may exist in both user folders."""
    login(functional["app"], SITE_OWNER_NAME)
    assert added().user == Identity("/acl_users", SITE_OWNER_NAME)


@pytest.mark.parametrize("header", ["HTTP_X_TASK_USER_ID", "HTTP_X_TASK_USER-ID"])
def test_anonymous(added, current_request, header):
    """C101: no identity, even if the browser sent one."""
    current_request(**{header: "admin"})
    logout()
    task = added()
    assert (task.user, task.headers) == (None, ())


@pytest.mark.parametrize("user", [system, UnrestrictedUser("emergency", "", ["manage"], [])])
def test_users_that_may_do_everything(added, functional, caplog, user):
    """They have no id, so that no task can run as them; whoever queues one is told."""
    newSecurityManager(None, user.__of__(functional["app"].acl_users))
    first, second = added(), added()
    assert (first.user, second.user) == (None, None)
    assert [record.getMessage() for record in caplog.records] == [
        f"task {task.id}: queued by {user.getUserName()}, which no task can run as;"
        " it will run as Anonymous"
        for task in (first, second)
    ]


def test_nobody_is_warned_where_nothing_is_lost(added, caplog):
    """Web hooks run as nobody, headers may authenticate, and Anonymous stays Anonymous."""
    newSecurityManager(None, system)
    added("https://example.org/hook")
    added(headers={"authorization": BASIC})
    logout()
    added()
    assert caplog.records == []


class Elevated(UnrestrictedUser):
    """With an id, as add-ons make it of the current user to give them more roles."""

    def getId(self):
        return self.getUserName()


@pytest.mark.parametrize("name", [SITE_OWNER_NAME, TEST_USER_ID])
def test_user_with_other_roles(added, functional, current_request, name):
    """D10: it stands for who has made the request, not for their namesake in the site."""
    root, site = functional["app"].acl_users, functional["portal"].acl_users
    root.userFolderAddUser(TEST_USER_ID, "secret-secret", [], [])
    current_request().other["AUTHENTICATED_USER"] = root.getUser(name)
    newSecurityManager(None, Elevated(name, "", ["Manager"], []).__of__(site))
    assert added().user == Identity("/acl_users", name)


def test_somebody_else_with_other_roles(added, functional, current_request):
    """Nobody but themselves is meant by somebody else's id."""
    site = functional["portal"].acl_users
    current_request().other["AUTHENTICATED_USER"] = functional["app"].acl_users.getUser(
        SITE_OWNER_NAME
    )
    newSecurityManager(None, Elevated(TEST_USER_ID, "", ["Manager"], []).__of__(site))
    assert added().user == Identity("/plone/acl_users", TEST_USER_ID)


def test_user_that_cannot_be_found_again(functional):
    user = functional["portal"].acl_users.getUserById(TEST_USER_ID).aq_base
    newSecurityManager(None, user)
    with pytest.raises(ValueError, match="without a user folder"):
        taskqueue.add(URL)
    assert transaction.get()._resources == []


# credentials


def test_credentials_stay_out_while_the_plugin_is_active(added, current_request):
    """D11: no secret lies in the queue."""
    current_request(HTTP_COOKIE="__ac=secret", HTTP_AUTHORIZATION=BASIC)
    assert added().headers == ()


def test_credentials_are_copied_without_the_plugin(added, current_request, without_plugin):
    """C100: how else could the task be authenticated?"""
    current_request(HTTP_COOKIE="__ac=secret", HTTP_AUTHORIZATION=BASIC)
    assert headers(added()) == {"Authorization": BASIC, "Cookie": "__ac=secret"}


@pytest.mark.parametrize("active", [True, False])
def test_credentials_of_anonymous_are_never_copied(added, current_request, portal, active):
    """D11, D13: a stale cookie is not who asks now."""
    if not active:
        applyProfile(portal, "collective.taskqueue.pasplugin:uninstall")
    current_request(
        HTTP_COOKIE="__ac=stale", HTTP_AUTHORIZATION=BASIC, HTTP_CGI_AUTHORIZATION=BASIC
    )
    logout()
    assert added().headers == ()


@pytest.mark.parametrize(
    "name", ["Authorization", "authorization", "Cookie", "COOKIE", "cgi_authorization"]
)
def test_own_credentials_are_refused_while_the_plugin_is_active(functional, name):
    with pytest.raises(ValueError, match=f"header {name} would lie in the queue"):
        taskqueue.add(URL, headers={name: "secret"})
    assert transaction.get()._resources == []


@pytest.mark.parametrize("name", ["Authorization", "cookie"])
def test_own_credentials_are_kept_without_the_plugin(added, without_plugin, name):
    assert headers(added(headers={name: "secret"})) == {name: "secret"}


def test_plugin_of_one_folder_does_not_count_for_the_other(added, functional, current_request):
    """C100: what counts is the user folder of the person."""
    portal = functional["portal"]
    portal.acl_users.manage_delObjects(["taskauth"])
    current_request(HTTP_COOKIE="__ac=secret")
    assert headers(added()) == {"Cookie": "__ac=secret"}
    login(functional["app"], SITE_OWNER_NAME)
    assert added().headers == ()


@pytest.mark.parametrize("interface", ["IExtractionPlugin", "IAuthenticationPlugin"])
def test_plugin_that_is_only_half_active_does_not_count(added, portal, current_request, interface):
    plugins = portal.acl_users.plugins
    plugins.deactivatePlugin(plugins._getInterfaceFromName(interface), "taskauth")
    current_request(HTTP_COOKIE="__ac=secret")
    assert headers(added()) == {"Cookie": "__ac=secret"}


def test_user_folder_that_is_no_pas(added, functional):
    """An old user folder has no plugins: credentials are copied."""
    folder = Folder("folder")
    functional["app"]._setObject("folder", folder)
    folder = functional["app"].folder
    folder.manage_addUserFolder()
    folder.acl_users._doAddUser("old", "secret", ["Member"], [])
    newSecurityManager(None, folder.acl_users.getUser("old").__of__(folder.acl_users))
    task = added(headers={"Authorization": "x"})
    assert task.user == Identity("/folder/acl_users", "old")
    assert headers(task) == {"Authorization": "x"}


# web hooks

HOOK = "https://example.org/hook"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://example.org/hook?a=1#fragment", "https://example.org/hook?a=1"),
        ("  HTTP://example.org  ", "http://example.org"),
        ("https://Example.org:8443/ä b?c=ö", "https://Example.org:8443/%C3%A4%20b?c=%C3%B6"),
        ("https://example.org/%2F%20?a=%26", "https://example.org/%2F%20?a=%26"),
        ("https://[2001:db8::1]/", "https://[2001:db8::1]/"),
    ],
)
def test_url_of_a_web_hook(added, given, expected):
    """C06, O12: never published as a path of that name."""
    task = added(given)
    assert (task.url, task.is_hook) == (expected, True)


def test_a_path_is_no_web_hook(added):
    """O12."""
    assert not added("/plone/http://example.org/").is_hook


def test_nothing_of_the_current_request_is_sent_away(added, current_request, without_plugin):
    """Its cookie least of all: neither headers nor body, nor where it came from."""
    current_request(
        "/",
        "PUT",
        FORM,
        CONTENT_TYPE=FORM_TYPE,
        HTTP_COOKIE="__ac=secret",
        HTTP_AUTHORIZATION=BASIC,
        HTTP_ACCEPT_LANGUAGE="fi",
        HTTP_X_CUSTOM="mine",
    )
    task = added(HOOK)
    assert (task.method, task.headers, task.payload, task.origin) == ("POST", (), b"", None)


def test_user_of_a_web_hook(added):
    """It may be seen and cancelled by who queued it."""
    assert added(HOOK).user == Identity("/plone/acl_users", TEST_USER_ID)


@pytest.mark.parametrize(
    ("method", "expected"), [(None, "POST"), ("get", "GET"), ("DELETE", "DELETE"), ("PUT", "PUT")]
)
def test_method_of_a_web_hook(added, method, expected):
    """O01."""
    assert added(HOOK, method).method == expected


@pytest.mark.parametrize("method", [None, "post"])
def test_params_of_a_web_hook_are_its_form(added, method):
    """O01: as a browser would post it."""
    task = added(f"{HOOK}?x=y", method, {"a": "ä b", "l": ["1", "2"]})
    assert (task.url, task.payload) == (f"{HOOK}?x=y", b"a=%C3%A4+b&l=1&l=2")
    assert headers(task) == {"Content-Type": FORM_TYPE}


@pytest.mark.parametrize(
    ("method", "payload"),
    [
        ("GET", {}),
        ("PUT", {}),
        ("DELETE", {}),
        ("POST", {"payload": b"x"}),
        ("POST", {"payload": None}),
    ],
)
def test_params_of_a_web_hook_are_its_query(added, method, payload):
    """O01: if the body is another one, or the method means none."""
    task = added(f"{HOOK}?x=y", method, {"a": "ä b"}, **payload)
    assert task.url == f"{HOOK}?x=y&a=%C3%A4+b"
    assert task.payload == (payload.get("payload") or b"")


@pytest.mark.parametrize("payload", [bytes(range(256)), bytearray(b"x"), memoryview(b"y")])
def test_payload_of_a_web_hook(added, payload):
    """N07: byte for byte."""
    task = added(HOOK, payload=payload, headers={"content-type": "application/x-thing"})
    assert task.payload == bytes(payload)
    assert headers(task) == {"content-type": "application/x-thing"}


def test_payload_of_a_web_hook_without_a_type(added):
    """C19."""
    assert headers(added(HOOK, payload="a=1")) == {"Content-Type": FORM_TYPE}


def test_own_headers_of_a_web_hook(added):
    """Credentials too: nothing else could prove to other people's servers who calls."""
    own = {"Authorization": "Bearer x", "Cookie": "a=b", "X-Task-Id": "forged", "X-Up": True}
    task = added(HOOK, headers=own)
    assert headers(task) == {"Authorization": "Bearer x", "Cookie": "a=b", "X-Up": "true"}


def test_largest_payload_of_a_web_hook(functional):
    """Also if it is a form."""
    with task_queue("q", max_payload=10) as queue:
        taskqueue.add(HOOK, params={"a": "x" * 8}, queue="q")
        with pytest.raises(ValueError, match=r"max_payload \(10 bytes\)$"):
            taskqueue.add(HOOK, params={"a": "x" * 9}, queue="q")
        assert len(pending(queue)) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://", "no valid host"),
        ("http:example.org", "no valid host"),
        ("https:///path", "no valid host"),
        ("http://ex ample.org/", "no valid host"),
        ("http://ä.example.org/", "no valid host"),
        ("http://example.org:port/", "no url"),
        ("http://user@example.org/", "no user and no password"),
        ("https://user:secret@example.org/", "no user and no password"),
        ("http://example.org:22/", "port 22 is none of the web"),
        ("http://example.org:6379/", "port 6379 is none of the web"),
        ("http://example.org/\r\nX-A: b", "control characters"),
        ("ftp://example.org/", "ftp: urls cannot be queued"),
        ("gopher://example.org/", "gopher: urls cannot be queued"),
    ],
)
def test_bad_web_hook_joins_nothing(functional, url, message):
    """C04, C06: what can be told from the url is told at once."""
    with pytest.raises(ValueError, match=message):
        taskqueue.add(url)
    assert transaction.get()._resources == []


@pytest.mark.parametrize("url", ["http://localhost:9000/x", "http://10.1.2.3:9000/x"])
def test_a_port_that_is_allowed(functional, url):
    """By the allow_hosts of the queue, and of no other."""
    with task_queue("q", allow_hosts="localhost:9000 10.0.0.0/8") as queue:
        taskqueue.add(url, queue="q")
        assert [task.url for task in pending(queue)] == [url]
    with pytest.raises(ValueError, match="port 9000"):
        taskqueue.add(url, queue="default")


def test_options_of_a_web_hook(added):
    """N06, N41: patience is built in; a task of Zope has none of it."""
    task = added(HOOK)
    assert (task.max_attempts, task.timeout) == (36, 60.0)
    assert (task.backoff, task.min_backoff, task.max_backoff) == ("exponential", 2.0, 7200.0)
    task = added(URL)
    assert (task.max_attempts, task.timeout) == (1, None)


@pytest.mark.parametrize("url", [HOOK, URL])
def test_options_of_the_queue_win(functional, url):
    """And what the call says wins over them."""
    with task_queue("q", max_attempts=3, timeout=5.0) as queue:
        taskqueue.add(url, queue="q")
        taskqueue.add(url, queue="q", max_attempts=7, timeout=9)
        assert [(task.max_attempts, task.timeout) for task in pending(queue)] == [
            (3, 5.0),
            (7, 9.0),
        ]
