"""What `add()` makes of what a browser sends, and of an object that does not stay where it is."""

from acceptance.instance import basic
import json
import pytest


RECORD = {"url": "/Plone/@@fixture-record"}


@pytest.fixture
def page(plone):
    """The path of a page of its own, in the site without the plugin."""
    status, _, body = plone.request(
        "POST",
        "/Plone",
        json.dumps({"@type": "Document", "title": "A page"}).encode(),
        {"Content-Type": "application/json", "Accept": "application/json", **basic("editor")},
    )
    assert status == 201, body
    path = f"/Plone/{json.loads(body)['id']}"
    yield path
    plone.request("DELETE", path, headers={"Accept": "application/json", **basic("editor")})


class TestObject:
    def rename(self, plone, path, name):
        status, _, body = plone.request(
            "PATCH",
            path,
            json.dumps({"id": name}).encode(),
            {"Content-Type": "application/json", "Accept": "application/json", **basic("editor")},
        )
        assert status == 204, body

    def behind_a_gate(self, plone, page, gate):
        """Queue a task of a page, and of the page, behind a task that waits for us."""
        url = f"/Plone/@@fixture-gate?name={gate}"
        plone.add({"url": url, "queue": "one"}, headers=basic("editor"))
        call = {"view": "@@fixture-record", "queue": "one"}
        asked = plone.add(call, path=page, headers=basic("editor"))
        return asked["ids"][0]

    def test_it_runs_where_the_object_is(self, plone, page):
        task_id = self.behind_a_gate(plone, page, "renamed")
        self.rename(plone, page, "moved-away")
        plone.open("renamed")
        status = plone.finished(task_id)
        self.rename(plone, "/Plone/moved-away", page.rpartition("/")[2])
        assert status["state"] == "succeeded", status
        [seen] = plone.records(id=task_id)
        assert seen["url"].endswith("/Plone/moved-away")

    def test_it_runs_nowhere_if_the_object_is_gone(self, plone, page):
        task_id = self.behind_a_gate(plone, page, "deleted")
        headers = {"Accept": "application/json", **basic("editor")}
        assert plone.request("DELETE", page, headers=headers)[0] == 204
        plone.open("deleted")
        assert plone.finished(task_id)["state"] == "failed"
        assert plone.records(id=task_id) == []


HOSTS = ["example.org:99999", "[", "::1", "a, b", "x:80:80", "user:pw@example.org", ""]


class TestHost:
    @pytest.mark.parametrize("host", HOSTS)
    def test_an_odd_host_loses_no_task(self, plone, host):
        """The request is answered 200; its task runs, without an origin."""
        query = plone.query({"calls": json.dumps([RECORD])})
        status, body = plone.raw(f"/Plone/@@fixture-add?{query}", host=host)
        if status != 200:
            return
        task_id = json.loads(body)["ids"][0]
        assert plone.finished(task_id)["state"] == "succeeded"
        [seen] = plone.records(id=task_id)
        assert seen["url"] == "http://nohost/Plone"
        assert len(plone.lines(task_id, "cannot be parsed")) == 1

    def test_a_url_of_this_site_is_refused(self, plone):
        for url in (f"http://127.0.0.1:{plone.port}/Plone", "/Plone/docs#2", "Plone/view"):
            query = plone.query({"calls": json.dumps([{"url": url}])})
            assert plone.request("GET", f"/Plone/@@fixture-add?{query}")[0] == 500


SECRETS = {
    "X-Api-Key": "secret-1",
    "X-Auth-Request-Access-Token": "secret-2",
    "X-Amzn-Oidc-Data": "secret-3",
    "Cf-Access-Jwt-Assertion": "secret-4",
    "X-Ssl-Client-Cert": "secret-5",
    "X-CSRF-Token": "secret-6",
    "Referer": "http://localhost/passwordreset/secret-7",
}


class TestSecrets:
    def test_tokens_do_not_reach_the_queue(self, plone):
        """With the plugin a task takes along what is harmless, and nothing else."""
        harmless = {"Accept-Language": "fi", "X-Request-Id": "42"}
        headers = {**SECRETS, **harmless, **basic("jane")}
        call = {"url": "/Auth/@@fixture-record"}
        [task_id] = plone.add(call, path="/Auth", headers=headers)["ids"]
        status = plone.finished(task_id)
        assert status["state"] == "succeeded"
        assert dict(status["headers"]) == harmless
        assert "secret-" not in json.dumps(status)

    def test_an_upload_is_not_taken_along(self, plone):
        """A subscriber queues a task while a user uploads more than a queue holds."""
        body = b"x" * 1_500_000
        [seen] = plone.run(
            RECORD, method="POST", body=body, headers={"Content-Type": "application/x-thing"}
        )
        assert (seen["method"], seen["body"], seen["content_type"]) == ("GET", "", None)


class TestLanguage:
    @pytest.mark.parametrize("language", ["fi", "en"])
    def test_the_language_that_was_asked_for(self, plone, language):
        """C91: also if no cookie and no header says so."""
        other = "en" if language == "fi" else "fi"
        [seen] = plone.run(RECORD, set_language=language, headers={"Accept-Language": other})
        assert seen["language"] == language
