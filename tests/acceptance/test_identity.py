"""A task runs as the person who queued it, or not at all."""

from acceptance.instance import basic
from acceptance.instance import wait_for
from urllib.parse import urlencode
import json
import pytest


CREDENTIALS = {"cookie", "authorization"}


def credentials(status):
    """Names of the headers in the queue that could be used to log in."""
    return CREDENTIALS & {name.lower() for name, _ in status["headers"]}


@pytest.fixture(scope="module", params=["Plone", "Auth"])
def site(request):
    """A site without the PAS plugin, and one with it."""
    return request.param


@pytest.fixture(scope="module")
def cookie(plone, site):
    """What the browser of jane sends once she has logged in."""
    form = {
        "__ac_name": "jane",
        "__ac_password": "secret-jane",
        "buttons.login": "Log in",
        "came_from": "",
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    _, answer, _ = plone.request("POST", f"/{site}/login", urlencode(form).encode(), headers)
    cookies = [value.partition(";")[0] for value in answer.get_all("Set-Cookie", [])]
    assert any(value.startswith("__ac=") for value in cookies), cookies
    return {"Cookie": "; ".join(cookies)}


class TestSamePerson:
    """C100, C102, D11: with the plugin nothing that could be stolen lies in the queue."""

    def test_basic_auth(self, plone, site):
        [task_id] = plone.add(
            {"url": f"/{site}/@@fixture-record"}, path=f"/{site}", headers=basic("jane")
        )["ids"]
        status = plone.finished(task_id)
        [seen] = plone.records(id=task_id)
        assert status["state"] == "succeeded"
        assert status["user"] == [f"/{site}/acl_users", "jane"]
        assert (seen["user"], seen["header"]) == ("jane", "jane")
        assert credentials(status) == ({"authorization"} if site == "Plone" else set())
        assert bool(seen["auth"]) == (site == "Plone")

    def test_a_cookie_of_the_login_form(self, plone, site, cookie):
        asked = plone.add({"url": f"/{site}/@@fixture-record"}, path=f"/{site}", headers=cookie)
        status = plone.finished(asked["ids"][0])
        [seen] = plone.records(id=asked["ids"][0])
        assert asked["user"] == seen["user"] == seen["header"] == "jane"
        assert status["state"] == "succeeded"
        assert credentials(status) == ({"cookie"} if site == "Plone" else set())

    def test_a_user_of_the_root(self, plone, site):
        """D10: in the site and outside of it; the profile has taken care of the root, too."""
        for url in (f"/{site}/@@fixture-secret", "/@@fixture-record"):
            [task_id] = plone.add({"url": url}, path=f"/{site}", headers=basic("root"))["ids"]
            status = plone.finished(task_id)
            [seen] = plone.records(id=task_id)
            assert status["user"] == ["/acl_users", "root"]
            assert seen["user"] == "root"
            assert credentials(status) == set()

    def test_permissions_apply(self, plone, site):
        """C105: being a task opens no door that is closed to the person."""
        url = f"/{site}/@@fixture-secret"
        for name, state in (("jane", "failed"), ("editor", "succeeded")):
            [task_id] = plone.add({"url": url}, path=f"/{site}", headers=basic(name))["ids"]
            status = plone.finished(task_id)
            assert status["state"] == state
            assert len(plone.records(id=task_id)) == (state == "succeeded")
            assert bool(plone.lines(task_id, "Unauthorized", "failed")) == (state == "failed")

    def test_anonymous(self, plone, site):
        """C101: a task of an anonymous request runs as Anonymous."""
        [task_id] = plone.add({"url": f"/{site}/@@fixture-record"}, path=f"/{site}")["ids"]
        assert plone.finished(task_id)["user"] is None
        [seen] = plone.records(id=task_id)
        assert seen["user"] is None
        assert "HTTP_X_TASK_USER_ID" not in seen["headers"]

    def test_a_user_folder_that_is_not_pluggable(self, bare):
        """C100: without PAS there is no plugin; the headers do it."""
        [task_id] = bare.add({"url": "/@@fixture-record"}, path="", headers=basic("root"))["ids"]
        assert bare.finished(task_id)["user"] == ["/acl_users", "root"]
        [seen] = bare.records(id=task_id)
        assert seen["user"] == seen["header"] == "root"


class TestNoOtherUser:
    def test_a_user_who_is_gone(self, plone, site):
        """C102, D13: the waiting task of a deleted user is cancelled, and not run as Anonymous."""
        gate = f"gone-{site}"
        url = f"/{site}/@@fixture-record"
        plone.add({"url": f"/{site}/@@fixture-gate?name={gate}", "queue": "one"})
        wait_for(lambda: plone.records(gate=gate), "the queue to be held up")
        [task_id] = plone.add(
            {"url": url, "queue": "one"}, path=f"/{site}", headers=basic("leaver")
        )["ids"]
        try:
            plone.get(f"/{site}/@@fixture-dismiss?name=leaver", headers=basic("editor"))
        finally:
            plone.open(gate)
        status = plone.finished(task_id)
        assert status["state"] == "cancelled"
        assert status["reason"] == f"queued by leaver of /{site}/acl_users, who was deleted"
        assert plone.records(id=task_id) == []

    def test_a_namesake_in_another_site(self, plone, site):
        """D10: jane of one site is not jane of the other, even with the same password."""
        other = {"Plone": "Auth", "Auth": "Plone"}[site]
        [task_id] = plone.add(
            {"url": f"/{other}/@@fixture-record"}, path=f"/{site}", headers=basic("jane")
        )["ids"]
        status = plone.finished(task_id)
        assert status["state"] == "failed"
        assert f"queued by jane of /{site}/acl_users" in status["reason"]
        assert plone.records(id=task_id) == []


class TestForgery:
    """D01: `X-Task-User-Id` in any spelling, over a raw socket."""

    NAMES = (
        "X-Task-User-Id",
        "x-task-user-id",
        "X_Task_User_Id",
        "X-Task_User-Id",
        "X-TASK-USER_ID",
    )

    def asked(self, plone, site, *lines):
        calls = json.dumps([{"url": f"/{site}/@@fixture-record", "queue": "default"}])
        status, body = plone.raw(
            f"/{site}/@@fixture-add?{plone.query({'calls': calls})}",
            *(f"{name}: editor" for name in self.NAMES),
            *lines,
        )
        assert status == 200
        asked = json.loads(body)
        assert plone.finished(asked["ids"][0])["state"] == "succeeded"
        [seen] = plone.records(id=asked["ids"][0])
        return asked, seen

    def test_it_authenticates_no_user(self, plone, site):
        asked, seen = self.asked(plone, site)
        assert asked["user"] is None
        assert seen["user"] is None
        assert "editor" not in json.dumps(seen)

    def test_it_does_not_change_who_one_is(self, plone, site):
        asked, seen = self.asked(plone, site, f"Authorization: {basic('jane')['Authorization']}")
        assert asked["user"] == seen["user"] == seen["header"] == "jane"
        assert "editor" not in json.dumps(seen)

    def test_each_spelling_alone(self, plone, site):
        """Together they might hide one another."""
        for name in self.NAMES:
            status, body = plone.raw(f"/{site}/@@fixture-secret", f"{name}: editor", "X-Task-Id: 1")
            assert status == 302, (name, body)
            assert b"recorded" not in body

    def test_it_is_not_taken_from_the_caller_either(self, plone, site):
        """C03, D01: code that passes on what it was given does no harm."""
        forged = {"X-Task-User-Id": "editor", "x_task_user_id": "editor", "X-Task-Queue": "one"}
        [task_id] = plone.add(
            {"url": f"/{site}/@@fixture-record", "headers": forged}, path=f"/{site}"
        )["ids"]
        assert plone.finished(task_id)["queue"] == "custom"
        [seen] = plone.records(id=task_id)
        assert seen["user"] is None
        assert "editor" not in json.dumps(seen)
        assert seen["headers"]["HTTP_X_TASK_QUEUE"] == "custom"
