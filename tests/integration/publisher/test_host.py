"""The url of a task does not choose the host of the links that it sends."""

from collective.taskqueue.testing import run_tasks
from dataclasses import replace
from Products.SiteAccess.VirtualHostMonster import manage_addVirtualHostMonster
from uuid import uuid4
import pytest
import transaction


@pytest.fixture
def put(functional, queue, run, view):
    """Put a task as it may lie in the storage from earlier, past `add`; return what came out."""
    manage_addVirtualHostMonster(functional["app"])
    transaction.commit()
    pattern = run(view("pattern", lambda context, request: "")).task

    def call(url, **changes):
        task = replace(pattern, id=str(uuid4()), url=url, max_attempts=3, **changes)
        queue.put(task)
        (done,) = run_tasks()
        return done

    return call


@pytest.mark.parametrize(
    "url",
    [
        "/VirtualHostBase/https/evil.example:443/plone/VirtualHostRoot/@@look",
        "/%56irtualHostBase/https/evil.example/plone/VirtualHostRoot/@@look",
        "/./VirtualHostBase/https/evil.example/plone/VirtualHostRoot/@@look",
        "/plone/../VirtualHostBase/http/evil.example/plone/VirtualHostRoot/@@look",
        "/VirtualHostBase%2fhttps%2fevil.example/plone/VirtualHostRoot/@@look",
        "/plone/VirtualHostRoot/@@look",
        "/plone/_vh_evil/@@look",
        "/plone/@@look?VirtualHostBase:method=1",
    ],
)
def test_a_step_that_chooses_the_host(put, view, url):
    """At once, and before anything is published."""
    seen = []
    view("look", lambda context, request: seen.append(context.absolute_url()))
    done = put(url)
    assert seen == []
    assert done.status.state == "failed"
    assert "would choose the public host" in done.status.reason
    assert done.outcome.verdict == "discard"


def test_a_form_field_that_chooses_the_host(put, view):
    """The publisher takes steps from the body as well."""
    seen = []
    view("look", lambda context, request: seen.append(context.absolute_url()))
    step = "VirtualHostBase/http/evil.example/plone/VirtualHostRoot/@@look:method"
    done = put(
        "/",
        method="POST",
        payload=f"{step}=1".encode(),
        headers=(("Content-Type", "application/x-www-form-urlencoded"),),
    )
    assert seen == []
    assert done.status.state == "failed"
    assert "adds the step VirtualHostBase" in done.status.reason
