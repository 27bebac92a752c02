"""From `taskqueue.add()` in a view over real HTTP to a task whose effect can be seen."""

from acceptance.instance import basic
from acceptance.instance import wait_for
import html
import json
import pytest
import re


def test_queue_run_effect(plone):
    """C05, C08, C09: a task arrives at its view, with path and query as they were meant."""
    [seen] = plone.run(
        {"url": "/Plone/@@fixture-record?a=1", "params": {"l": ["1", "2"], "u": "ä", "b": "2"}}
    )
    assert seen["form"] == {"a": "1", "l": ["1", "2"], "u": "ä", "b": "2"}
    assert seen["method"] == "GET"


@pytest.mark.parametrize("url", ["//Plone/@@fixture-record", "/Plone/%C3%A4%2520/@@record"])
def test_spellings_of_a_path(plone, url):
    """C05: slashes and quoting; a path is unquoted once."""
    [task_id] = plone.add({"url": url})["ids"]
    status = plone.finished(task_id)
    if "%" in url:
        assert status["status"] == 404
        assert "/Plone/%C3%A4%2520" in status["reason"]
    else:
        assert status["state"] == "succeeded"


def test_the_id_is_the_one_that_add_returned(plone):
    """C02, C03, U06: unique, known before the commit, and not to be forged by the caller."""
    forged = {"X-Task-Id": "forged", "x_task_id": "forged"}
    ids = plone.add(*[{"url": "/Plone/@@fixture-record", "headers": forged}] * 3)["ids"]
    assert len(set(ids)) == 3
    for task_id in ids:
        plone.finished(task_id)
        [seen] = plone.records(id=task_id)
        assert seen["headers"]["HTTP_X_TASK_ID"] == task_id


def test_a_write_on_get_persists(plone):
    """behaviours 7.5: plone.protect does not undo what an authenticated GET task writes."""
    plone.run({"url": "/Plone/@@fixture-write?value=by-a-task"}, headers=basic("editor"))
    assert plone.get("/Plone/@@fixture-read") == b"by-a-task"


def test_a_write_on_get_from_a_browser_does_not(plone):
    """The guard that the test above passes is in force for everybody else."""
    plone.request("GET", "/Plone/@@fixture-write?value=forged", headers=basic("editor"))
    assert plone.get("/Plone/@@fixture-read") != b"forged"


def test_a_published_document_becomes_visible(plone):
    """U08: a Manager queues what the workflow menu links to; then everybody can read it.

    The view redirects when it is done, and that is a success (C87); where to is kept.
    """
    assert plone.request("GET", "/Plone/report")[0] == 302
    page = plone.get("/Plone/report", headers=basic("editor")).decode()
    link = re.search(r'href="([^"]*content_status_modify[^"]*=publish[^"]*)"', page)[1]
    url = html.unescape(link).partition(f":{plone.port}")[2]
    [task_id] = plone.add({"url": url}, headers=basic("editor"))["ids"]
    status = plone.finished(task_id)
    assert (status["state"], status["status"], status["reason"]) == ("succeeded", 302, "")
    assert b"The report" in plone.get("/Plone/report")


def test_a_themed_page_renders(plone):
    """C92: a whole Plone page, with its theme, is 200 as a task."""
    # Plone themes nothing for a host called 127.0.0.1.
    headers = {**basic("jane"), "Host": f"localhost:{plone.port}"}
    [task_id] = plone.add({"url": "/Plone/sitemap"}, headers=headers)["ids"]
    status = plone.finished(task_id)
    assert (status["state"], status["status"]) == ("succeeded", 200)
    for part in ('class="outer-wrapper', "<title>Plone site</title>", "Site map"):
        assert part in status["body"]
        assert part in plone.get("/Plone/sitemap", headers=headers).decode()


def test_a_task_without_a_request(plone):
    """C24: a thread of an add-on, without a request, a user or a site."""
    [task_id] = json.loads(plone.get("/@@fixture-bare?url=/Plone/@@fixture-record"))["ids"]
    assert plone.finished(task_id)["state"] == "succeeded"
    [seen] = plone.records(id=task_id)
    assert seen["user"] is None
    assert seen["url"] == "http://nohost/Plone"
    assert "HTTP_X_TASK_USER_ID" not in seen["headers"]
    assert seen["body"] == ""


def test_queues_are_independent(plone):
    """C51: each task runs in its own queue; a queue that is stuck holds up no other."""
    [stuck] = plone.add({"url": "/Plone/@@fixture-gate?name=stuck", "queue": "one"})["ids"]
    wait_for(lambda: plone.records(gate="stuck"), "the task at the gate to start")
    try:
        [seen] = plone.run({"url": "/Plone/@@fixture-record", "queue": "mailhost"})
        assert seen["headers"]["HTTP_X_TASK_QUEUE"] == "mailhost"
        assert plone.counts()["one"]["running"] == 1
    finally:
        plone.open("stuck")
    assert plone.finished(stuck)["state"] == "succeeded"


def test_the_first_queue_in_the_alphabet_is_the_default(plone):
    """C21."""
    [task_id] = plone.add({"url": "/Plone/@@fixture-ping"})["ids"]
    assert plone.finished(task_id)["queue"] == min(plone.counts()) == "custom"


def test_a_mail_with_the_form_that_was_posted(plone):
    """U10, C17: the task sends the message of the form of the queuing request."""
    body = b"subject=posted&message=M%C3%B6hren"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert plone.request("POST", "/Plone/@@fixture-mails", body, headers)[0] == 200
    wait_for(lambda: plone.records(mail="posted"), "the mail")
    [mail] = plone.records(mail="posted")
    assert mail["text"] == "Möhren"
    assert mail["recipients"] == ["reader@example.org"]


def test_a_thousand_mails_arrive_once_and_in_order(plone):
    """C37, D02, U05, U11: queued in one transaction, sent through MailHost by one consumer."""
    plone.get("/Plone/@@fixture-mails?count=1000")
    wait_for(lambda: plone.records(mail="n999"), "the last mail")
    plone.drain()
    sent = [item["mail"] for item in plone.records(text="-")]
    assert sent == [f"n{number}" for number in range(1000)]
