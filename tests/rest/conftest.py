"""A site with the HTTP interface, its people, and a client for each of them."""

from base64 import b64encode
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.services.access import ADD
from collective.taskqueue.services.access import ADD_HOOK
from collective.taskqueue.services.access import MANAGE
from collective.taskqueue.services.access import VIEW
from collective.taskqueue.services.refusal import StorageUnavailableView
from collective.taskqueue.testing import isolated
from collective.taskqueue.testing import set_up
from collective.taskqueue.testing import task_queue
from collective.taskqueue.testing import TASKQUEUE_FIXTURE
from dataclasses import dataclass
from io import BytesIO
from plone.app.testing import applyProfile
from plone.app.testing import FunctionalTesting
from plone.app.testing import PloneSandboxLayer
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD
from typing import Any
from urllib.parse import unquote
from urllib.parse import urlsplit
from zope.component import getUtility
from zope.component import provideAdapter
from zope.interface import Interface
from ZPublisher.WSGIPublisher import publish_module
import json
import plone.restapi
import pytest


PEOPLE = {
    "adder": "Adder",
    "editor": "Adder",
    "viewer": "Viewer",
    "manager": "Manager",
    "member": "Member",
}

HOOK = "https://example.org/hook"

#: Paths that are complete: those of the site, and those of virtual hosting.
ROOTS = ("/plone", "/VirtualHostBase", "/./VirtualHostBase")


class RestSite(PloneSandboxLayer):
    """A site with plone.restapi, and with people who may do this and that."""

    defaultBases = (TASKQUEUE_FIXTURE,)

    def setUpZope(self, app, configurationContext):
        self.loadZCML(package=plone.restapi)
        # Once more: of the registries of two layers the upper one wins, though what it has
        # may be less specific. A server has one registry.
        provideAdapter(StorageUnavailableView, provides=Interface, name="index.html")

    def setUpPloneSite(self, portal):
        applyProfile(portal, "plone.restapi:default")
        for role in ("Adder", "Viewer"):
            portal._addRole(role)
            portal.acl_users.portal_role_manager.addRole(role)
        for name, role in PEOPLE.items():
            portal.acl_users._doAddUser(name, f"secret-{name}", ["Member", role], [])
        portal.manage_permission(ADD, ["Manager", "Adder"])
        portal.manage_permission(ADD_HOOK, ["Manager", "Adder"])
        portal.manage_permission(VIEW, ["Manager", "Viewer"])
        portal.manage_permission(MANAGE, ["Manager"])


REST_SITE = RestSite()
REST_FUNCTIONAL = FunctionalTesting(bases=(REST_SITE,), name="RestSite:Functional")


@dataclass
class Answer:
    status: int
    reason: str
    headers: dict
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple:
        error = self.json["error"]
        return self.status, error["type"], error.get("field")


class Client:
    """Makes real requests from outside, in this thread."""

    def __init__(self, credentials: str = "") -> None:
        self.credentials = credentials

    def __call__(self, method, path, json_body=None, body=b"", **headers) -> Answer:
        if json_body is not None:
            body = json.dumps(json_body).encode()
            headers.setdefault("Content-Type", "application/json")
        parts = urlsplit(path)
        where = unquote(parts.path).encode().decode("latin-1")
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": where if where.startswith(ROOTS) else f"/plone/{where}",
            "QUERY_STRING": parts.query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "8080",
            "HTTP_HOST": "localhost:8080",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "203.0.113.9",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(body),
            "HTTP_ACCEPT": "application/json",
        }
        if self.credentials:
            environ["HTTP_AUTHORIZATION"] = self.credentials
        for name, value in headers.items():
            key = name.upper().replace("-", "_")
            environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
        answer: list = []
        chunks = publish_module(environ, lambda status, found: answer.extend((status, found)))
        content = b"".join(chunks)
        if hasattr(chunks, "close"):
            chunks.close()
        status, _, reason = answer[0].partition(" ")
        return Answer(int(status), reason, {k.title(): v for k, v in answer[1]}, content)

    def get(self, path, **headers):
        return self("GET", path, **headers)

    def post(self, path, json_body=None, **more):
        return self("POST", path, json_body, **more)

    def delete(self, path, **more):
        return self("DELETE", path, **more)

    def add(self, **fields):
        """Add a task, which must be possible; return its id."""
        answer = self.post("@tasks", fields)
        assert answer.status == 201, answer
        return answer.json["id"]


def login(name: str, password: str | None = None) -> Client:
    credentials = f"{name}:{password or f'secret-{name}'}".encode()
    return Client(f"Basic {b64encode(credentials).decode()}")


@pytest.fixture(scope="package")
def rest_site():
    with set_up(REST_FUNCTIONAL):
        yield


@pytest.fixture
def site(rest_site):
    with isolated(REST_FUNCTIONAL) as layer:
        yield layer


@pytest.fixture
def portal(site):
    return site["portal"]


@pytest.fixture
def queue(site):
    return getUtility(ITaskQueue, name="default")


@pytest.fixture
def other_queue(site):
    with task_queue("hooks", max_payload=100) as queue:
        yield queue


@pytest.fixture
def anonymous(site):
    return Client()


@pytest.fixture
def member(site):
    """May nothing but see the site."""
    return login("member")


@pytest.fixture
def adder(site):
    return login("adder")


@pytest.fixture
def editor(site):
    """Another user who may add tasks."""
    return login("editor")


@pytest.fixture
def viewer(site):
    return login("viewer")


@pytest.fixture
def manager(site):
    return login("manager")


@pytest.fixture
def root(site):
    """The administrator of all sites."""
    return login(SITE_OWNER_NAME, SITE_OWNER_PASSWORD)


def task_of(queue, answer):
    """Return the task that an answer of ``POST /@tasks`` tells of."""
    assert answer.status == 201, answer
    return queue.status(answer.json["id"]).task
