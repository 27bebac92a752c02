"""The headers of the current request that a task takes along, and those that it never does."""

from collective.taskqueue import taskqueue
from collective.taskqueue.enqueue.datamanager import pending
from collective.taskqueue.testing import task_queue
from integration.capture.conftest import BASIC
from integration.capture.conftest import headers
from integration.capture.conftest import URL
from plone.app.testing import logout
import pytest


HARMLESS = {
    "HTTP_ACCEPT_LANGUAGE": "fi",
    "HTTP_TRACEPARENT": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "HTTP_X_REQUEST_ID": "7f3e",
}

SECRETS = """
    AUTHORIZATION COOKIE CGI_AUTHORIZATION X_API_KEY X_CSRF_TOKEN X_AUTH_REQUEST_ACCESS_TOKEN
    X_AMZN_OIDC_DATA X_AMZN_OIDC_ACCESSTOKEN CF_ACCESS_JWT_ASSERTION X_SSL_CLIENT_CERT REFERER
    X_AUTH_TOKEN X_FORWARDED_ACCESS_TOKEN X_GOOG_IAP_JWT_ASSERTION X_REMOTE_USER X_ANYTHING
    TRACESTATE X_REQUEST_IDS X_ACCEPT_LANGUAGE
"""

WRONG_OF_A_TASK = """
    CONNECTION KEEP_ALIVE TE TRAILER TRANSFER_ENCODING UPGRADE EXPECT PROXY_AUTHORIZATION
    PROXY_CONNECTION HOST RANGE IF_RANGE IF_MATCH IF_NONE_MATCH IF_MODIFIED_SINCE
    IF_UNMODIFIED_SINCE CONTENT_TYPE CONTENT_LENGTH CONTENT_ENCODING CONTENT_MD5
    X_HTTP_METHOD_OVERRIDE X_TASK_ID X_TASK_USER_ID X_TASK_QUEUE X_TASK_ATTEMPT X_TASK_ANYTHING
"""

NOT_OF_THE_AUTHOR = """
    ACCEPT ACCEPT_ENCODING FORWARDED X_FORWARDED_FOR X_FORWARDED_HOST X_FORWARDED_PROTO X_REAL_IP
    VIA SEC_FETCH_SITE SEC_CH_UA USER_AGENT X_REQUESTED_WITH UPGRADE_INSECURE_REQUESTS
"""


def given(keys):
    return {f"HTTP_{key}": "100" for key in keys.split()}


def copied(environ):
    return {key[5:].replace("_", "-").title(): value for key, value in environ.items()}


def test_what_is_harmless_is_copied(added, current_request):
    """C10: language and tracing."""
    current_request(**HARMLESS)
    assert headers(added()) == copied(HARMLESS)


@pytest.mark.parametrize(
    "key", [*given(SECRETS), *given(WRONG_OF_A_TASK), *given(NOT_OF_THE_AUTHOR)]
)
def test_nothing_else_is_copied(added, current_request, key):
    """C11, D11: a task is authenticated by id; tokens of proxies and APIs stay out of the queue."""
    current_request(**{key: "secret"})
    assert added().headers == ()
    logout()
    assert added().headers == ()


def test_headers_that_the_queue_names(functional, current_request):
    """Names match in any case, and however the queuing server spells the headers."""
    current_request(
        HTTP_X_TENANT="a",
        HTTP_X_B3_TRACEID="1",
        HTTP_X_B3="2",
        HTTP_USER_AGENT="b",
        **HARMLESS,
    )
    names = ("x-tenant", "x-b3-*", "user-agent")
    with task_queue("q", copy_headers=names) as queue:
        taskqueue.add(URL, queue="q")
        (task,) = pending(queue)
    expected = {"X-Tenant": "a", "X-B3-Traceid": "1", "User-Agent": "b"}
    assert headers(task) == {**expected, **copied(HARMLESS)}


@pytest.mark.parametrize(
    "names", [("*",), ("x-*", "*"), ("a*", "c*", "h*", "x*", "i*", "p*", "t*")]
)
def test_headers_that_no_name_copies(functional, current_request, names):
    """Neither credentials that a task does without, nor what would be wrong of a task."""
    credentials = given("AUTHORIZATION COOKIE CGI_AUTHORIZATION")
    current_request(**credentials, **given(WRONG_OF_A_TASK))
    with task_queue("q", copy_headers=names) as queue:
        taskqueue.add(URL, queue="q")
        (task,) = pending(queue)
    assert task.headers == ()


@pytest.mark.parametrize("name", [*WRONG_OF_A_TASK.split(), "AUTHORIZATION", "COOKIE"])
def test_what_is_never_copied_if_it_is_named_itself(functional, current_request, name):
    current_request(**{f"HTTP_{name}": "100"})
    with task_queue("q", copy_headers=(name.lower().replace("_", "-"),)) as queue:
        taskqueue.add(URL, queue="q")
        (task,) = pending(queue)
    assert task.headers == ()


def test_a_lone_asterisk_is_what_version_1_did(functional, current_request):
    current_request(
        **HARMLESS, **given(NOT_OF_THE_AUTHOR), HTTP_X_CUSTOM="mine", HTTP_REFERER="/from"
    )
    with task_queue("q", copy_headers=("*",)) as queue:
        taskqueue.add(URL, queue="q")
        (task,) = pending(queue)
    assert headers(task) == {**copied(HARMLESS), "X-Custom": "mine", "Referer": "/from"}


# without the plugin


def test_without_the_plugin_all_are_copied(added, current_request, without_plugin):
    """C10: how else could the task be authenticated?"""
    environ = {**HARMLESS, **given("AUTHORIZATION COOKIE X_API_KEY REFERER X_REMOTE_USER")}
    current_request(**environ)
    assert headers(added()) == copied(environ)


def test_without_the_plugin_an_anonymous_task_has_no_credentials(
    added, current_request, without_plugin
):
    current_request(**given("AUTHORIZATION COOKIE CGI_AUTHORIZATION X_CUSTOM"))
    logout()
    assert headers(added()) == {"X-Custom": "100"}


@pytest.mark.parametrize("key", [*given(WRONG_OF_A_TASK), *given(NOT_OF_THE_AUTHOR)])
def test_without_the_plugin_too_some_are_not_copied(added, current_request, without_plugin, key):
    """C11, D01, D12: they mean a connection, a cache or a browser, and not the task."""
    current_request(**{key: "100"}, HTTP_COOKIE="a=b")
    assert headers(added()) == {"Cookie": "a=b"}


# values


@pytest.mark.parametrize(
    "value", ["a\r\nX: b", "a\nb", "a\rb", "a\0b", "a\x7fb", "a\udc80", "\ud800", "", "  "]
)
def test_copied_headers_that_no_one_should_have_sent(added, current_request, value):
    """D14."""
    current_request(HTTP_X_REQUEST_ID=value, HTTP_ACCEPT_LANGUAGE="fi")
    assert headers(added()) == {"Accept-Language": "fi"}


def test_bytes_of_a_header_stay_as_they_are(added, current_request):
    """A server gives them as latin-1, where an à ends with what looks like a blank."""
    value = "voilà".encode().decode("latin-1")
    current_request(HTTP_X_REQUEST_ID=f" {value}\t")
    assert headers(added()) == {"X-Request-Id": value}


def test_a_name_that_is_none(added, current_request, without_plugin):
    current_request(**{"HTTP_X Y": "1", "HTTP_X_Ä": "2", "HTTP_": "3", "HTTP_COOKIE": BASIC})
    assert headers(added()) == {"Cookie": BASIC}
