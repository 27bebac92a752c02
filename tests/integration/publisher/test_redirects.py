"""A form ends with a redirect: then its task has succeeded, unless it leads to a login page."""

from collective.taskqueue import taskqueue
from collective.taskqueue.interfaces import ITaskQueueLayer
from collective.taskqueue.testing import run_tasks
from integration.publisher.conftest import raising
from plone import api
from plone.app.testing import logout
from plone.app.testing import SITE_OWNER_NAME
from plone.protect.authenticator import createToken
from plone.registry.interfaces import IRegistry
from Products.PluggableAuthService.interfaces.plugins import IChallengePlugin
from zExceptions import NotFound
from zExceptions import Redirect
from zExceptions import Unauthorized
from zope.component import getGlobalSiteManager
from zope.component import getUtility
from zope.interface import Interface
import pytest
import transaction


def leading(location, status=302):
    return lambda context, request: request.response.redirect(location, status=status)


def location_of(status):
    return next((value for name, value in status.headers if name.lower() == "location"), None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    [
        "http://nohost/plone/news/view",
        "/elsewhere?came_from=/login",
        "https://example.org/thanks",
        "http://nohost/plone/login/help-me",
        "http://nohost/plone/how-to-login",
        "/elsewhere#login",
    ],
)
def test_a_redirect_of_a_view_is_a_success(run, view, portal, status, location):
    """C87: as forms end; it is not followed, and where it leads is kept."""

    def work(context, request):
        context.written = True
        request.response.redirect(location, status=status)

    done = run(view("work", work), max_attempts=3)
    assert (done.status.state, done.outcome.status) == ("succeeded", status)
    assert (done.status.reason, done.outcome.reason) == ("", "")
    assert location_of(done.status) == location
    assert done.status.status == status
    assert portal.aq_base.written


@pytest.mark.parametrize(
    "location",
    [
        "http://nohost/plone/login",
        "http://nohost/plone/news/login?came_from=http%3A//nohost/plone/x",
        "/plone/@@login",
        "/plone/login_form/",
        "require_login?came_from=here",
        "http://nohost/plone/acl_users/credentials_cookie_auth/require_login?came_from=x",
        "http://nohost/plone/++view++login",
        "http://nohost/plone/log%69n",
        "http://nohost/plone/@@confirm-action?original_url=http://nohost/plone/x&_token=1",
        "http://nohost/plone/confirm-action",
        "http://nohost/plone/insufficient-privileges",
        "http://nohost/plone/failsafe_login",
    ],
)
def test_a_redirect_to_log_in_or_to_confirm(run, view, location):
    """A task has no user who could log in or confirm."""
    done = run(view("work", leading(location)), max_attempts=3)
    assert (done.status.state, done.outcome.status) == ("failed", 302)
    assert done.status.reason.endswith(" to log in or confirm")
    assert "came_from=" not in done.status.reason


def test_login_pages_that_the_site_has_configured(run, view, portal):
    """Login pages may have any name."""
    getUtility(IRegistry)["plone.external_login_url"] = "https://sso.example.org/auth?realm=x"
    portal.acl_users.credentials_cookie_auth.login_path = "our_gate"
    transaction.commit()
    for location, state in (
        ("https://sso.example.org/auth?came_from=http%3A%2F%2Fnohost", "failed"),
        ("https://sso.example.org/thanks", "succeeded"),
        ("http://nohost/plone/our_gate?came_from=x", "failed"),
        ("http://nohost/plone/our_gates", "succeeded"),
    ):
        assert run(view("work", leading(location))).status.state == state, location


def test_unauthorized_is_what_it_is(run, view):
    """401, its own reason first, and the challenge of no plugin."""
    logout()
    done = run(view("work", raising(Unauthorized("Not for you"))), max_attempts=3)
    assert (done.outcome.status, done.status.state) == (401, "failed")
    assert done.status.reason == "Unauthorized: Not for you"
    assert location_of(done.status) is None
    assert done.status.status == 401


def test_a_view_that_the_user_may_not_call(run, view):
    """Refused in the traversal."""
    done = run(view("secret", lambda context, request: "", roles=("Manager",)))
    assert (done.outcome.status, done.status.state) == (401, "failed")
    assert done.status.reason.startswith("Unauthorized: ")


def test_no_challenge_plugin_runs(run, view, portal, monkeypatch, http):
    """Neither one of the site nor one of the root."""
    asked = []
    kind = type(portal.acl_users.credentials_cookie_auth.aq_base)
    monkeypatch.setattr(kind, "challenge", lambda *args: asked.append(args) or True)
    assert portal.acl_users.plugins.listPlugins(IChallengePlugin)
    url = view("work", raising(Unauthorized("no")))
    run(url)
    assert asked == []
    # As ever for a request of a browser.
    http(url)
    assert asked != []


def test_a_redirect_that_is_raised_is_none_of_a_form(run, view, portal):
    """The publisher aborts, so that nothing of what the task wrote is there."""

    def work(context, request):
        context.written = True
        raise Redirect("http://nohost/plone/thanks?token=secret")

    done = run(view("work", work), max_attempts=3)
    assert (done.outcome.status, done.status.state) == (302, "failed")
    assert done.status.reason == (
        "Redirect raised, redirected to http://nohost/plone/thanks?token, what it wrote is undone"
    )
    assert not hasattr(portal.aq_base, "written")


@pytest.mark.parametrize(("error", "status"), [(NotFound("gone"), 404), (KeyError("x"), 500)])
@pytest.mark.parametrize("answer", [200, 204, 301, 302])
def test_what_an_exception_view_answers_is_not_the_outcome(run, view, error, status, answer):
    """The exception is."""

    class Page:
        def __init__(self, context, request):
            self.request = request

        def __call__(self):
            self.request.response.redirect("/elsewhere", status=answer, lock=1)
            return ""

    registry = getGlobalSiteManager()
    required = (type(error), ITaskQueueLayer)
    registry.registerAdapter(Page, required, Interface, "index.html")
    try:
        done = run(view("work", raising(error)))
    finally:
        registry.unregisterAdapter(Page, required, Interface, "index.html")
    assert (done.outcome.status, done.status.state) == (status, "failed")
    assert done.status.reason.startswith(f"{type(error).__name__}: ")


def test_publishing_from_the_menu(portal):
    """What the workflow menu links to publishes, redirects, and has succeeded."""
    portal.portal_workflow.setDefaultChain("simple_publication_workflow")
    with api.env.adopt_user(SITE_OWNER_NAME):
        report = api.content.create(portal, "Document", id="report")
        transaction.commit()
        url = "/plone/report/content_status_modify?workflow_action=publish"
        params = {"_authenticator": createToken()}
        taskqueue.add(url, params=params, queue="default", max_attempts=3)
        transaction.commit()
    (done,) = run_tasks()
    transaction.begin()
    assert api.content.get_state(report) == "published"
    assert (done.status.state, done.status.status) == ("succeeded", 302)
    assert location_of(done.status).startswith("http://nohost/plone/report")
    assert len(done.status.attempts) == 1
