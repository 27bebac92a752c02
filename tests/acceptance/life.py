"""A process with two queues, and the public API of tasks in it."""

from acceptance.instance import wait_for
from functools import partial
import json


#: `life` has one thread, so that what its thread did before can be told. In `other` there
#: is always a thread that could run a task a second time. Leases are short in both.
LIFE_QUEUES = """\
%import collective.taskqueue
<taskqueue>
  queue life
  min_backoff 0.1
</taskqueue>
<taskqueue-server>
  queue life
  lease 1
</taskqueue-server>
<taskqueue>
  queue other
</taskqueue>
<taskqueue-server>
  queue other
  concurrent_limit 3
  lease 1
</taskqueue-server>
"""


class Life:
    """The public API of the process, over HTTP."""

    def __init__(self, instance):
        self.instance = instance

    def call(self, function, **arguments):
        """Return the JSON that a function of the API answers, or its error."""
        query = self.instance.query(
            {"function": function, "arguments": json.dumps(arguments)},
        )
        return json.loads(self.instance.get(f"/@@life-api?{query}"))

    def ask(self, function, **arguments):
        """Return what a function of the API answers; it must not refuse."""
        found = self.call(function, **arguments)
        assert "error" not in found, found
        return found["answer"]

    def refused(self, function, **arguments):
        """Return the name of the error with which a function of the API refuses."""
        return self.call(function, **arguments)["error"]

    def status(self, task_id):
        return self.ask("status", task_id=task_id)

    def add(self, view, queue="life", **options):
        """Let a transaction add a task; return its id."""
        return self.ask("add", url=f"/@@life-{view}", queue=queue, **options)

    def finished(self, task_id):
        """Wait until a task is finished; return its status."""

        def status():
            found = self.status(task_id)
            return found if found["state"] in ("succeeded", "failed", "cancelled") else None

        return wait_for(status, f"task {task_id} to finish")

    def in_state(self, task_id, state):
        """Wait until a task is in a state; return its status."""

        def status():
            found = self.status(task_id)
            return found if found["state"] == state else None

        return wait_for(status, f"task {task_id} to be {state}")

    def starts(self, task_id):
        """What is recorded of each start of a task."""
        return self.instance.records(task=task_id, event="start")

    def told(self, task_id, count):
        """Wait until subscribers were told so many events; return their names, in order."""
        find = partial(self.instance.records, task=task_id)

        def names():
            found = [item["told"] for item in find() if "told" in item]
            return found if len(found) >= count else None

        return wait_for(names, f"{count} events of task {task_id}")

    def value(self):
        """What the last task that committed has written."""
        return self.instance.get("/@@life-value").decode()
