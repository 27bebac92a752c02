"""The demo add-on: what its page queues, and what the tasks do."""

from collective.taskqueue.testing import run_tasks
from integration.demo.conftest import send
from integration.demo.conftest import tasks
from plone import api
from plone.app.testing import setRoles
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD
from plone.app.testing import TEST_USER_ID
from Products.MailHost.MailHost import MailHost
from urllib.error import HTTPError
import pytest
import socket
import transaction


def test_letters(page, queue, letters):
    """One task for each letter, queued by one request and sent in order."""
    send(page, 3)
    assert page.url == "http://nohost/plone/@@taskqueue-demo"
    assert len(queue) == 3
    assert letters() == []
    runs = run_tasks()
    assert [run.status.state for run in runs] == ["succeeded"] * 3
    to = [f"reader-{number:03}@example.org" for number in (1, 2, 3)]
    assert [letter["To"] for letter in letters()] == to
    assert [run.outcome.body.decode() for run in runs] == [f"sent to {name}" for name in to]
    assert letters()[0]["From"] == "The demo site <news@example.org>"
    assert "There are no news." in letters()[0].get_payload()


def test_no_folder_for_the_letters(page, tmp_path):
    """A mail host that cannot send refuses the commit, and the task fails."""
    (tmp_path / "mails").write_text("a file where the folder should be")
    send(page, 1)
    run, notice = run_tasks()
    assert run.status.state == "failed"
    assert "FileExistsError" in run.status.reason
    assert notice.task.url.startswith("/plone/@@demo-failure-letter")


def test_no_mail_server(page, portal):
    """What docs/how-to/mail.rst says of Plone's own mail host and a server that is away."""
    portal.manage_delObjects(["MailHost"])
    portal._setObject("MailHost", MailHost("MailHost"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        api.portal.set_registry_record("plone.smtp_host", "127.0.0.1")
        api.portal.set_registry_record("plone.smtp_port", closed.getsockname()[1])
        transaction.commit()
        send(page, 1)
        run, _ = run_tasks()
    assert run.status.state == "failed"
    assert "ConnectionRefusedError" in run.status.reason


def test_folder_tree(page, portal):
    """Each task publishes an item and queues a task for each item below."""
    page.getControl("Create and publish").click()
    assert api.content.get_state(portal.news) == "private"
    runs = run_tasks()
    assert [run.task.description.removeprefix("Publish /plone/") for run in runs] == [
        "news",
        "news/sports",
        "news/weather",
        "news/sports/1",
        "news/sports/2",
        "news/weather/1",
        "news/weather/2",
    ]
    assert {run.status.state for run in runs} == {"succeeded"}
    published = {brain.getPath() for brain in api.content.find(review_state="published")}
    assert published == {run.task.url.removesuffix("/@@demo-publish") for run in runs}


def test_publishing_twice(page, portal, queue):
    """A task that is delivered again finds its work done, and succeeds."""
    page.getControl("Create and publish").click()
    first = run_tasks()[0]
    queue.add(first.task.url)
    transaction.commit()
    assert {run.status.state for run in run_tasks()} == {"succeeded"}
    assert len(api.content.get(path="/news").workflow_history["simple_publication_workflow"]) == 2


def test_a_second_tree(page, portal):
    """The button can be pressed again."""
    page.getControl("Create and publish").click()
    page.getControl("Create and publish").click()
    assert {"news", "news-1"} <= set(portal.objectIds())


def test_slow_work(page):
    """The field of the form is the field of the task."""
    page.getControl(name="seconds").value = "0.01"
    page.getControl("Work for so many seconds").click()
    (run,) = run_tasks()
    assert run.outcome.body == b"worked for 0.01 s"


def test_a_bulk_operation(page, ask, portal):
    """202 and a url, which tells how far it has come, and at last how it went."""
    page.getControl("Create and publish").click()
    run_tasks()
    page.open("http://nohost/plone/@@taskqueue-demo")
    status, accepted = ask("http://nohost/plone/@demo-tag", {"tag": "checked"})
    assert status == 202
    assert accepted["@id"] == f"http://nohost/plone/@tasks/{accepted['id']}"
    status, task = ask(accepted["@id"])
    assert (status, task["state"], task["progress"]) == (200, "queued", None)
    run_tasks()
    _, task = ask(accepted["@id"])
    assert (task["state"], task["progress"]["done"], task["progress"]["total"]) == (
        "succeeded",
        4,
        4,
    )
    assert ask(task["response"])[1]["body"] == "tagged 4 pages"
    assert len(api.content.find(Subject="checked")) == 4


def test_a_bulk_operation_without_the_token(ask, queue):
    """A page of another site does not know the token of the page, so nothing is queued."""
    status, _ = ask("http://nohost/plone/@demo-tag", {"tag": "a"}, token="forged")
    assert status == 403
    assert len(queue) == 0


def test_whoami(page):
    """The task runs as who pressed the button, and at the same address."""
    page.getControl("Ask").click()
    (run,) = run_tasks()
    assert run.outcome.body.decode() == f"{TEST_USER_ID} at http://nohost/plone"


@pytest.mark.parametrize("view", ["send-letter?to=a@example.org", "publish", "work", "whoami"])
def test_what_tasks_call_is_not_for_browsers(open_browser, view):
    """C84: not even a manager may call them in a browser."""
    browser = open_browser(SITE_OWNER_NAME, SITE_OWNER_PASSWORD)
    with pytest.raises(HTTPError, match="404"):
        browser.open(f"http://nohost/plone/@@demo-{view}")


@pytest.mark.parametrize("button", ["letters?count=1", "tree", "work?seconds=1", "whoami"])
def test_buttons_of_other_sites(open_browser, portal, queue, button):
    """A form of another site, without the token of the page, queues and creates nothing."""
    known = portal.objectIds()
    with pytest.raises(HTTPError, match="403"):
        open_browser().post(f"http://nohost/plone/@@demo-queue-{button}", "")
    assert len(queue) == 0
    assert portal.objectIds() == known


def test_who_may_see_the_page(open_browser, portal):
    """A plain member may not."""
    setRoles(portal, TEST_USER_ID, ["Member"])
    transaction.commit()
    for view in ("taskqueue-demo", "demo-tasks"):
        browser = open_browser()
        browser.followRedirects = False
        browser.open(f"http://nohost/plone/@@{view}")
        assert "require_login" in browser.headers["location"]


def test_tasks_of_the_current_user(page, open_browser):
    """The table shows how it went, to who queued it."""
    page.getControl("Ask").click()
    mine = tasks(page)
    assert [(task["state"], task["outcome"]) for task in mine] == [("queued", "")]
    run_tasks()
    send(page, 1)
    done, waiting = tasks(page)
    assert waiting["description"] == "Letter to reader 1"
    assert (done["id"], done["state"], done["attempts"]) == (mine[0]["id"], "succeeded", 1)
    assert [state for state, _ in done["changes"]] == ["queued", "running", "succeeded"]
    assert done["outcome"] == f"200 {TEST_USER_ID} at http://nohost/plone"
    assert tasks(open_browser(SITE_OWNER_NAME, SITE_OWNER_PASSWORD)) == []


def test_the_newest_of_many(page, queue, monkeypatch):
    """Of the tasks that ended the last ones are shown, of those that wait the next ones."""
    monkeypatch.setattr("taskqueue_demo.page.SHOWN", 2)
    send(page, 3)
    run_tasks()
    send(page, 5)
    shown = [(task["state"], task["description"][-1]) for task in tasks(page)]
    assert sorted(shown) == [
        ("queued", "1"),
        ("queued", "2"),
        ("succeeded", "2"),
        ("succeeded", "3"),
    ]
