"""The ledger of the demo add-on: how often each task has run."""

from collective.taskqueue.testing import run_tasks
from dataclasses import replace
from urllib.error import HTTPError
from urllib.parse import urlencode
import json
import pytest
import transaction


SITE = "http://nohost/plone"


def queue_entries(browser, **fields):
    token = browser.getForm(id="demo-bulk").getControl(name="_authenticator").value
    browser.followRedirects = False
    browser.post(
        f"{SITE}/@@demo-queue-entries",
        urlencode({"count": 3, "milliseconds": 1, "_authenticator": token, **fields}),
    )
    return browser.headers["Status"]


def ledger(browser):
    browser.open(f"{SITE}/@@demo-ledger")
    return json.loads(browser.contents)


def test_each_task_is_counted(page, queue, open_browser):
    """A 0 for a task that waits, and a 1 for one that has run."""
    assert ledger(open_browser()) == {}
    assert queue_entries(page).startswith("302")
    assert sorted(ledger(open_browser()).values()) == [0, 0, 0]
    assert len(queue) == 3
    runs = run_tasks()
    assert [run.outcome.body for run in runs] == [b"run 1"] * 3
    assert sorted(ledger(open_browser()).values()) == [1, 1, 1]


def test_a_task_that_runs_twice(page, queue, open_browser):
    """It has a 2: the ledger would tell."""
    queue_entries(page, count=1)
    (run,) = run_tasks()
    queue.put(replace(run.task, id="again"))
    run_tasks()
    assert list(ledger(open_browser()).values()) == [2]


def test_a_name_that_was_not_queued(page, portal, queue, open_browser):
    """Who may add tasks chooses their parameters: nothing is written for a name of theirs."""
    queue_entries(page, count=1)
    (run,) = run_tasks()
    name = next(iter(ledger(open_browser())))
    url = run.task.url.replace(name, "other")
    queue.put(replace(run.task, id="other", url=url))
    other, *_ = run_tasks()
    assert "the ledger does not have this task" in other.status.reason
    assert ledger(open_browser()) == {name: 1}


def test_a_request_of_another_page(open_browser, queue):
    """Without a token nothing is queued, and nothing is written."""
    browser = open_browser()
    with pytest.raises(HTTPError):
        browser.post(f"{SITE}/@@demo-queue-entries", "count=3&milliseconds=1")
    transaction.abort()
    assert len(queue) == 0
    assert ledger(open_browser()) == {}
