"""A task runs in the language that was negotiated for the request that queued it (C91)."""

from collective.taskqueue import taskqueue
from collective.taskqueue.testing import run_tasks
from plone import api
from plone.app.testing import setRoles
from plone.app.testing import TEST_USER_ID
from plone.base.interfaces import IPloneSiteRoot
from plone.i18n.interfaces import INegotiateLanguage
from zope.component import getGlobalSiteManager
from zope.component.hooks import setSite
from zope.globalrequest import setRequest
from zope.i18n import negotiate
from zope.publisher.interfaces.browser import IDefaultBrowserLayer
import pytest
import transaction


NEGOTIATIONS = ("path", "content", "cookie", "subdomain", "cctld", "request")


@pytest.fixture
def site(portal):
    setRoles(portal, TEST_USER_ID, ["Manager"])
    api.portal.set_registry_record("plone.available_languages", ["en", "fi", "sv", "pt-br"])
    api.portal.set_registry_record("plone.use_combined_language_codes", True)
    for name in ("fi", "news"):
        api.content.create(portal, "Folder", name)
    portal.news.language = "sv"
    transaction.commit()
    return portal


@pytest.fixture
def negotiations(site):
    """Go by these, and by nothing else."""

    def use(*names):
        for name in NEGOTIATIONS:
            api.portal.set_registry_record(f"plone.use_{name}_negotiation", name in names)
        transaction.commit()

    return use


@pytest.fixture
def languages(view, http):
    """The language of a request that queues a task, and that of the task, in Plone's and
    in Zope's eyes."""
    found = []

    def look(context, request):
        tool = api.portal.get_tool("portal_languages")
        found.append(
            (
                api.portal.get_current_language(),
                tool.getPreferredLanguage(request),
                negotiate(request),
                api.portal.translate("Yes"),
            )
        )

    def add(path="/plone", target="/plone/@@look", headers=None, **environ):
        def adder(context, request):
            look(context, request)
            return taskqueue.add(target, headers=headers)

        view("adder", adder)
        status, _, _ = http(f"{path}/@@adder{environ.pop('query', '')}", **environ)
        assert status == 200
        (done,) = run_tasks()
        assert done.outcome.ok, done.outcome.error
        asked, got = found[-2:]
        return asked, got

    view("look", look)
    return add


WAYS = [
    (("cookie",), {"query": "?set_language=fi"}, "fi"),
    (("cookie",), {"query": "?set_language=fi", "HTTP_COOKIE": "I18N_LANGUAGE=sv"}, "fi"),
    (("cookie",), {"HTTP_COOKIE": "I18N_LANGUAGE=sv"}, "sv"),
    (("cookie",), {"HTTP_COOKIE": "I18N_LANGUAGE=pt-br"}, "pt-br"),
    (("content",), {"path": "/plone/news"}, "sv"),
    (("path",), {"path": "/plone/fi"}, "fi"),
    (("request",), {"HTTP_ACCEPT_LANGUAGE": "sv, fi;q=0.5"}, "sv"),
    (("cctld",), {"HTTP_HOST": "www.example.fi"}, "fi"),
    (("subdomain",), {"HTTP_HOST": "fi.example.org"}, "fi"),
    (NEGOTIATIONS, {"query": "?set_language=fi", "HTTP_ACCEPT_LANGUAGE": "sv"}, "fi"),
    (NEGOTIATIONS, {"path": "/plone/news", "HTTP_ACCEPT_LANGUAGE": "fi"}, "sv"),
    ((), {"HTTP_ACCEPT_LANGUAGE": "sv", "HTTP_COOKIE": "I18N_LANGUAGE=fi"}, "en"),
]


@pytest.mark.parametrize("target", ["/plone/@@look", "/plone/news/@@look", "/plone/fi/@@look"])
@pytest.mark.parametrize(("names", "way", "expected"), WAYS)
def test_the_language_is_that_of_the_request(negotiations, languages, names, way, expected, target):
    """However it was negotiated, and with any path of the task."""
    negotiations(*names)
    asked, got = languages(target=target, **way)
    assert asked[0] == expected
    assert got == asked


def test_a_task_asks_for_a_language_itself(negotiations, languages):
    negotiations("cookie")
    _, got = languages(target="/plone/@@look?set_language=sv", HTTP_COOKIE="I18N_LANGUAGE=fi")
    assert got[0] == "sv"


def test_a_caller_names_languages_in_a_header(negotiations, languages):
    """C13: own headers win."""
    negotiations("request")
    _, got = languages(HTTP_ACCEPT_LANGUAGE="fi", headers={"accept-language": "sv"})
    assert got[0] == "sv"


def test_a_site_that_does_not_have_the_language_decides(negotiations, languages, site):
    negotiations("cookie")

    asked, _ = languages(HTTP_COOKIE="I18N_LANGUAGE=fi")
    assert asked[0] == "fi"
    setSite(site)
    api.portal.set_registry_record("plone.available_languages", ["en", "sv"])
    transaction.commit()
    asked, got = languages(HTTP_COOKIE="I18N_LANGUAGE=fi")
    assert (asked[0], got[0]) == ("en", "en")


def test_a_negotiator_of_the_site_is_asked(negotiations, languages):
    """For what was not negotiated, such as the default."""

    class Negotiator:
        language, default_language, language_list = "sv", "fi", ["en"]

        def __init__(self, site, request):
            pass

    registry = getGlobalSiteManager()
    required = (IPloneSiteRoot, IDefaultBrowserLayer)
    registry.registerAdapter(Negotiator, required, INegotiateLanguage)
    try:
        negotiations("cookie")
        asked, got = languages(HTTP_COOKIE="I18N_LANGUAGE=en")
    finally:
        registry.unregisterAdapter(Negotiator, required, INegotiateLanguage)
    assert asked[0] == got[0] == "sv"


def test_without_a_request_the_site_decides(negotiations, view, site):
    found = []
    view("look", lambda context, request: found.append(api.portal.get_current_language()))
    negotiations("content", "request")
    setRequest(None)
    taskqueue.add(site.news, view="@@look")
    transaction.commit()
    (done,) = run_tasks()
    assert (done.outcome.ok, found) == (True, ["sv"])


@pytest.mark.parametrize("value", ["fi-" * 100, "f\x00i", "..", "<b>", "\udc80", ""])
def test_a_cookie_that_names_no_language(negotiations, languages, value):
    negotiations("cookie")
    asked, got = languages(HTTP_COOKIE=f'I18N_LANGUAGE="{value}"')
    assert asked[0] == got[0] == "en"
