"""What a task takes along from the request that queues it, and what its own looks like."""

from acceptance.instance import basic
import json
import pytest


RECORD = {"url": "/Plone/@@fixture-record", "method": "POST"}


class TestBody:
    def test_a_posted_form(self, plone):
        """C17, C20: the task has the same form; the view that queued it still has its own."""
        body = b"text=M%C3%B6hren&list:list=1&list:list=2"
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        asked = plone.add(RECORD, method="POST", body=body, headers=headers)
        assert plone.finished(asked["ids"][0])["state"] == "succeeded"
        [seen] = plone.records(id=asked["ids"][0])
        del asked["form"]["calls"]
        assert seen["form"] == asked["form"] == {"text": "Möhren", "list": ["1", "2"]}
        assert seen["body"] == asked["body"] == body.decode()
        assert (seen["method"], seen["content_type"]) == ("POST", headers["Content-Type"])
        assert seen["content_length"] == str(len(body))

    def test_a_binary_body_larger_than_a_buffer(self, plone):
        """C17, C74: byte for byte, also if the server keeps it in a file."""
        body = bytes(range(256)) * 2400
        asked = plone.add(
            RECORD, method="POST", body=body, headers={"Content-Type": "application/x-thing"}
        )
        assert plone.finished(asked["ids"][0])["state"] == "succeeded"
        [seen] = plone.records(id=asked["ids"][0])
        assert seen["body"].encode("latin-1") == asked["body"].encode("latin-1") == body
        assert seen["content_type"] == "application/x-thing"

    def test_an_uploaded_file(self, plone):
        """N07: the boundary of a multipart body is part of its type."""
        body = (
            b'--edge\r\nContent-Disposition: form-data; name="title"\r\n\r\nscan\r\n'
            b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
            b"Content-Type: application/octet-stream\r\n\r\n\x00\xff\r\n\x80\r\n--edge--\r\n"
        )
        headers = {"Content-Type": "multipart/form-data; boundary=edge"}
        asked = plone.add(RECORD, method="POST", body=body, headers=headers)
        assert plone.finished(asked["ids"][0])["state"] == "succeeded"
        [seen] = plone.records(id=asked["ids"][0])
        assert seen["form"] == {"title": "scan", "file": ["a.bin", "\x00\xff\r\n\x80"]}
        assert asked["form"]["file"] == ["a.bin", "\x00\xff\r\n\x80"]

    def test_no_payload(self, plone):
        """C12, C18: with payload=None nothing of the body is copied, nor what describes it."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        [seen] = plone.run(
            {**RECORD, "payload": None}, method="POST", body=b"text=1", headers=headers
        )
        assert (seen["body"], seen["form"]) == ("", {})
        assert seen["content_length"] in ("0", None)
        assert seen["content_type"] is None

    def test_a_payload_of_its_own(self, plone):
        """C19, D43: it comes with its own length and type, not with those of the request."""
        [seen] = plone.run(
            {
                **RECORD,
                "payload": '{"a": 1}',
                "headers": {"content-type": "application/json"},
            },
            method="POST",
            body=b"text=1",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
        assert (seen["body"], seen["content_type"]) == ('{"a": 1}', "application/json")
        assert seen["content_length"] == "8"

    def test_a_post_from_a_get(self, plone):
        """C20: a request without a body gives a task without one."""
        [seen] = plone.run(RECORD)
        assert (seen["method"], seen["body"], seen["form"]) == ("POST", "", {})


class TestHeaders:
    def test_what_is_copied(self, plone):
        """C10, C11, D12: what the author says, not what the browser says about itself."""
        [seen] = plone.run(
            RECORD,
            headers={
                "Accept-Language": "fi",
                "X-Own": "kept",
                "Accept": "text/x-odd",
                "If-None-Match": "*",
                "If-Modified-Since": "Sat, 29 Oct 1994 19:43:31 GMT",
                "Range": "bytes=0-1",
                "User-Agent": "browser",
                "X-Forwarded-For": "10.0.0.1",
                "X-HTTP-Method-Override": "DELETE",
                "Sec-Fetch-Mode": "cors",
            },
        )
        task = seen["headers"]
        assert task.pop("HTTP_HOST") == f"127.0.0.1:{plone.port}"
        assert {name: value for name, value in task.items() if "X_TASK" not in name} == {
            "HTTP_ACCEPT_LANGUAGE": "fi",
            "HTTP_X_OWN": "kept",
            "HTTP_USER_AGENT": "TaskQueueServer",
        }

    def test_headers_of_the_caller_win(self, plone):
        """C13, C14, C15, D44: in any case; values are text, stripped, none is empty."""
        [seen] = plone.run(
            {
                **RECORD,
                "headers": {
                    "accept-language": "sv",
                    "X-Flag": True,
                    "X-Number": 3,
                    "X-Padded": " a:b ",
                    "X-Empty": "",
                    "X-Text": "ä",
                },
            },
            headers={"Accept-Language": "fi"},
        )
        task = seen["headers"]
        assert task["HTTP_ACCEPT_LANGUAGE"] == "sv"
        assert task["HTTP_X_FLAG"] == "true"
        assert task["HTTP_X_NUMBER"] == "3"
        assert task["HTTP_X_PADDED"] == "a:b"
        assert task["HTTP_X_TEXT"] == "ä"
        assert "HTTP_X_EMPTY" not in task

    def test_the_language_follows_the_headers(self, plone):
        """C91: Plone negotiates the same language as for the page that queued the task."""
        for language in ("fi", "en"):
            [seen] = plone.run(RECORD, headers={"Accept-Language": language})
            assert seen["language"] == language

    def test_the_language_follows_the_cookie(self, plone):
        """C91: also where the cookie itself is not copied, as it holds the login, too."""
        [seen] = plone.run(
            RECORD, headers={"Cookie": "I18N_LANGUAGE=fi; other=1", "Accept-Language": "en"}
        )
        assert seen["language"] == "fi"
        assert "HTTP_COOKIE" not in seen["headers"]


class TestLayer:
    def test_a_view_on_the_layer_is_for_tasks(self, plone):
        """U09, C84."""
        [seen] = plone.run({"url": "/Plone/@@fixture-layer"})
        assert seen["method"] == "GET"
        assert plone.request("GET", "/Plone/@@fixture-layer")[0] == 404
        assert plone.request("GET", "/Plone/@@fixture-layer", headers=basic("editor"))[0] == 404

    def test_forged_headers_do_not_open_it(self, plone):
        """C84, D01: in any spelling, over a raw socket."""
        [known] = plone.add({"url": "/Plone/@@fixture-ping"})["ids"]
        for name in ("X-Task-Id", "x-task-id", "X_Task_Id", "X-Task_Id"):
            status, _ = plone.raw(
                "/Plone/@@fixture-layer",
                f"{name}: {known}",
                "User-Agent: TaskQueueServer",
                "X-Task-User-Id: editor",
            )
            assert status == 404, name

    def test_it_survives_conflicts(self, plone):
        """C84, C83: the layer is on the class, so a retried request has it, too."""
        [task_id] = plone.add({"url": "/Plone/@@fixture-conflict?times=2"})["ids"]
        assert plone.finished(task_id)["state"] == "succeeded"
        assert len(plone.records(conflict=task_id)) == 3


class TestConflicts:
    def test_ten_retries_are_ten(self, plone):
        """C83, D07: ten conflicts make eleven executions, and a success."""
        call = {"url": "/Plone/@@fixture-conflict?times=10", "queue": "default"}
        [task_id] = plone.add(call)["ids"]
        assert plone.finished(task_id)["state"] == "succeeded"
        assert [item["execution"] for item in plone.records(conflict=task_id)] == [*range(1, 12)]

    def test_eleven_conflicts_are_a_failure(self, plone):
        """C83, D07: after eleven executions the attempt has failed, once and for all."""
        call = {"url": "/Plone/@@fixture-conflict?times=11", "queue": "default"}
        [task_id] = plone.add(call)["ids"]
        status = plone.finished(task_id)
        assert status["state"] == "failed"
        assert "ConflictError" in status["reason"]
        assert len(status["attempts"]) == 1
        assert len(plone.records(conflict=task_id)) == 11

    def test_each_consumer_has_its_own_number(self, plone):
        """C83: `retry_max_count 2` of another consumer means three executions."""
        call = {"url": "/Plone/@@fixture-conflict?times=3", "queue": "custom"}
        [task_id] = plone.add(call)["ids"]
        assert plone.finished(task_id)["state"] == "failed"
        assert len(plone.records(conflict=task_id)) == 3


class TestUrls:
    @pytest.mark.parametrize(
        ("path", "url"),
        [
            ("/Plone", "http://127.0.0.1:{port}/Plone"),
            (
                "/VirtualHostBase/https/www.example.org:443/Plone/VirtualHostRoot",
                "https://www.example.org",
            ),
            (
                "/VirtualHostBase/https/www.example.org:443/Plone/VirtualHostRoot/_vh_cms/_vh_a%20b",
                "https://www.example.org/cms/a%20b",
            ),
            (
                "/VirtualHostBase/http/example.org:8000/VirtualHostRoot/_vh_zope/Plone",
                "http://example.org:8000/zope/Plone",
            ),
        ],
        ids=["plain", "root", "prefix", "above"],
    )
    def test_urls_are_those_of_the_page(self, plone, path, url):
        """C86, guarantee 5: behind a virtual host a task sees the urls that the page saw."""
        for context in ("", "/report"):
            known = len(plone.records(task=True))
            plone.get(f"{path}{context}/@@fixture-twice?a=1", headers=basic("editor"))
            plone.drain()
            page = plone.records(task=False)[-1]
            [task] = plone.records(task=True)[known:]
            assert task["url"] == page["url"] == url.format(port=plone.port) + context
            assert task["request_url"] == page["request_url"] == f"{page['url']}/@@fixture-twice"
            assert task["actual_url"] == page["actual_url"]

    def test_a_task_outside_of_the_virtual_root(self, plone):
        """C86: it runs; what lies above the virtual root has no public url to agree with."""
        path = "/VirtualHostBase/https/www.example.org:443/Plone/VirtualHostRoot"
        [seen] = plone.run({"url": "/Auth/@@fixture-record"}, path=path)
        assert seen["url"].startswith("https://www.example.org")


class TestTransaction:
    """C30, C31, C32, C40 where the publisher itself begins, retries and ends it."""

    def added(self, plone, then, path="/Plone", **more):
        """How many tasks came of a request that adds one, with this end."""
        mark = f"{then}-{len(plone.records())}"
        query = json.dumps([{"url": "/Plone/@@fixture-record", "params": {"mark": mark}}])
        form = {"calls": query, "then": then, **more}
        status, _, _ = plone.request("GET", f"{path}/@@fixture-add?{plone.query(form)}")
        plone.drain()
        return status, len([item for item in plone.records() if mark in str(item.get("form"))])

    def test_commit(self, plone):
        """C30."""
        assert self.added(plone, "commit") == (200, 1)

    def test_an_exception(self, plone):
        """C31."""
        assert self.added(plone, "error") == (500, 0)

    def test_abort(self, plone):
        """C31."""
        assert self.added(plone, "abort") == (200, 0)

    def test_a_doomed_transaction(self, plone):
        """C40."""
        assert self.added(plone, "doom")[1] == 0

    def test_two_conflicts(self, plone):
        """C32: three executions of the view, one task."""
        before = len(plone.records(added="conflict"))
        assert self.added(plone, "conflict", times=2) == (200, 1)
        assert len(plone.records(added="conflict")) == before + 3

    def test_two_conflicts_in_the_commit(self, plone):
        """C32: with another transaction, found when the database votes and tasks are staged."""
        before = len(plone.records(added="collide"))
        assert self.added(plone, "collide", path="", times=2) == (200, 1)
        assert len(plone.records(added="collide")) == before + 3
        assert plone.get("/@@fixture-read") == b"mine"

    def test_conflicts_that_do_not_end(self, plone):
        """C31, C32: Zope gives up after three retries; no task is left of the four tries."""
        before = len(plone.records(added="collide"))
        assert self.added(plone, "collide", path="", times=4)[1] == 0
        assert len(plone.records(added="collide")) == before + 4

    def test_an_exception_in_a_task(self, plone):
        """C39: what a task that fails has queued is not queued."""
        mark = f"nested-{len(plone.records())}"
        calls = json.dumps([{"url": "/Plone/@@fixture-record", "params": {"mark": mark}}])
        for then, state, number in (("error", "failed", 0), ("commit", "succeeded", 1)):
            url = "/Plone/@@fixture-add"
            params = {"calls": calls, "then": then}
            [task_id] = plone.add({"url": url, "params": params})["ids"]
            assert plone.finished(task_id)["state"] == state
            plone.drain()
            found = [item for item in plone.records() if item.get("form") == {"mark": mark}]
            assert len(found) == number
