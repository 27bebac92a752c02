"""What a consumer says in the log about a task that has ended."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
import pytest


@pytest.mark.parametrize(("attempts", "end"), [(1, ", failed"), (2, " s")])
def test_a_reason_of_many_lines_is_one_line(caplog, attempts, end):
    """H23, guarantee 6: one line, and no text of a view can look like a line of its own."""
    storage = LocalStorage(QueueSettings())
    reason = "ValueError: bad\n  2026-01-01 ERROR forged\r\nlist"
    consumer = Consumer(storage, lambda attempt: Outcome(500, reason), ServerSettings())
    storage.stage("batch", [Task(id="id", queue="default", url="/", max_attempts=attempts)])
    storage.promote("batch")
    consumer.step()
    consumer.stop()
    (line,) = [item.getMessage() for item in caplog.records if "ValueError" in item.getMessage()]
    assert line.startswith("task id: ValueError: bad 2026-01-01 ERROR forged list")
    assert line.endswith(end)
    assert storage.admin.get("id").reason.startswith(reason)
