"""The layers of plone.testing as fixtures of pytest, and what the tests here share.

The layers are set up for this folder only: they push registries of their own.
"""

from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.testing import isolated
from collective.taskqueue.testing import set_up
from collective.taskqueue.testing import TASKQUEUE_FUNCTIONAL_TESTING
from collective.taskqueue.testing import TASKQUEUE_INTEGRATION_TESTING
from collective.taskqueue.testing.contract.base import BOUND
from http.server import BaseHTTPRequestHandler
from http.server import HTTPServer
from io import BytesIO
from Products.Five.browser import BrowserView
from zope.component import getGlobalSiteManager
from zope.component import getUtility
from zope.globalrequest import setRequest
from zope.interface import Interface
from zope.publisher.interfaces.browser import IDefaultBrowserLayer
from ZPublisher.HTTPRequest import WSGIRequest
from ZPublisher.HTTPResponse import WSGIResponse
from ZPublisher.WSGIPublisher import publish_module
import pytest
import threading


@pytest.fixture(scope="package")
def layers():
    with set_up(TASKQUEUE_FUNCTIONAL_TESTING, TASKQUEUE_INTEGRATION_TESTING):
        yield


@pytest.fixture
def functional(layers):
    """A layer in which a test may commit: the database is its own."""
    with isolated(TASKQUEUE_FUNCTIONAL_TESTING) as layer:
        yield layer


@pytest.fixture
def integration(layers):
    """A layer in which nothing is committed."""
    with isolated(TASKQUEUE_INTEGRATION_TESTING) as layer:
        yield layer


@pytest.fixture
def portal(functional):
    return functional["portal"]


@pytest.fixture
def queue(functional):
    return getUtility(ITaskQueue, name="default")


@pytest.fixture
def receiver():
    """The port of a server that answers each POST with 204."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            """Write nothing."""

        def do_POST(self):
            self.send_response(204)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join(BOUND)


@pytest.fixture
def view(functional):
    """Make a function of context and request a view, for the duration of a test.

    `roles` are those that may call it, None is everybody.
    """
    registry = getGlobalSiteManager()
    views = []

    def register(name, function, layer=IDefaultBrowserLayer, roles=None):
        body = {
            "__call__": lambda self: function(self.context, self.request),
            "__roles__": roles,
            "__name__": name,
        }
        factory = type(name, (BrowserView,), body)
        registry.registerAdapter(factory, (Interface, layer), Interface, name)
        views.append(((Interface, layer), name))
        return f"/plone/@@{name}"

    yield register
    for required, name in views:
        registry.unregisterAdapter(required=required, provided=Interface, name=name)


def make_environ(path="/", method="GET", body=b"", **environ):
    """The environment of a request from outside."""
    path, _, query = path.partition("?")
    return {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "203.0.113.9",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(body),
        **environ,
    }


@pytest.fixture
def current_request(functional):
    """Make a request from outside the current one."""

    def set_request(*args, **environ):
        environ = make_environ(*args, **environ)
        request = WSGIRequest(environ["wsgi.input"], environ, WSGIResponse())
        request.processInputs()
        setRequest(request)
        return request

    return set_request


@pytest.fixture
def http(functional):
    """Make a real request from outside, in this thread; return status, headers and body."""

    def call(*args, **environ):
        answer = []
        chunks = publish_module(
            make_environ(*args, **environ), lambda status, headers: answer.extend((status, headers))
        )
        body = b"".join(chunks)
        chunks.close() if hasattr(chunks, "close") else None
        return int(answer[0].split()[0]), dict(answer[1]), body

    return call
