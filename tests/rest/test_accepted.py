"""``taskqueue.accepted``: what a view or a service answers that has queued long work."""

from collective.taskqueue import taskqueue
from zope.component.hooks import setSite
from zope.globalrequest import clearRequest
from zope.globalrequest import setRequest
import pytest


def test_the_answer(site, portal):
    """202, and the address of the task."""
    request = site["request"]
    setRequest(request)
    answer = taskqueue.accepted("some-id")
    assert answer == {"@id": "http://nohost/plone/@tasks/some-id", "id": "some-id"}
    assert request.response.getStatus() == 202
    assert request.response.getHeader("Location") == answer["@id"]


@pytest.mark.parametrize("missing", ["request", "site"])
def test_no_request_to_answer(site, portal, missing):
    """An error says so; no address is made up."""
    setRequest(site["request"])
    if missing == "request":
        clearRequest()
    else:
        setSite(None)
    try:
        with pytest.raises(RuntimeError, match="no request to answer, or no site"):
            taskqueue.accepted("some-id")
    finally:
        setSite(portal)
        setRequest(site["request"])
