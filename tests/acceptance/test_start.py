"""What happens before the first task: zope.conf, scripts, and the moment consumers start."""

from acceptance.instance import Instance
from acceptance.instance import MEMORY_STORAGE
from acceptance.instance import SNIPPET
from acceptance.instance import START_TIMEOUT
from acceptance.instance import ZOPE_ZCML
import json
import os
import pytest
import subprocess
import sys


#: What is wrong with the sections of a zope.conf, and the sentence that says so. The line
#: is counted from the %import.
MISTAKES = {
    "two queues of one name": (
        "<taskqueue>\n queue twin\n</taskqueue>\n<taskqueue second>\n queue twin\n</taskqueue>",
        (
            "<taskqueue second> (line {4} of {conf}): queue 'twin' is already defined by"
            " <taskqueue> (line {1} of {conf})"
        ),
    ),
    "a server without its queue": (
        "<taskqueue />\n<taskqueue-server>\n queue missing\n</taskqueue-server>",
        "<taskqueue-server> (line {2} of {conf}): there is no queue 'missing' (known: default)",
    ),
    "a server and no queue at all": (
        "<taskqueue-server />",
        "<taskqueue-server> (line {1} of {conf}): there is no queue 'default' (known: none)",
    ),
    "two consumers of one name": (
        "<taskqueue />\n<taskqueue-server />\n<taskqueue-server />",
        (
            "<taskqueue-server> (line {3} of {conf}): <taskqueue-server> (line {2} of {conf})"
            " has the same queue and name"
        ),
    ),
    "an unknown type": (
        "<taskqueue>\n type carrier-pigeon\n</taskqueue>",
        "<taskqueue> (line {1} of {conf}): unknown type 'carrier-pigeon'; use local, ",
    ),
    "a bad integer": (
        "<taskqueue numbers>\n port abc\n</taskqueue>",
        (
            "<taskqueue numbers> (line {1} of {conf}): 'abc' is no whole number (line {2}, in"
            " {conf})"
        ),
    ),
    "a number out of range": (
        "<taskqueue />\n<taskqueue-server>\n concurrent_limit -1\n</taskqueue-server>",
        (
            "<taskqueue-server> (line {2} of {conf}): the number must not be negative"
            " (line {3}, in {conf})"
        ),
    ),
    "an unknown key": (
        "<taskqueue>\n colour red\n</taskqueue>",
        "<taskqueue> (line {1} of {conf}): 'colour' is not a known key name; known are allow_hosts",
    ),
    "a module that cannot be imported": (
        "<taskqueue>\n type nowhere.to_be.Found\n</taskqueue>",
        "<taskqueue> (line {1} of {conf}): nowhere.to_be.Found cannot be imported:",
    ),
    "a url that sql does not know": (
        "<taskqueue>\n type sql\n url mysql://localhost/tasks\n</taskqueue>",
        ("<taskqueue> (line {1} of {conf}): type sql needs a url, sqlite:///… or postgresql://…"),
    ),
    "a url that says no type": (
        "<taskqueue>\n url mysql://localhost/tasks\n</taskqueue>",
        "<taskqueue> (line {1} of {conf}): its url says no type; a url begins with one of local:",
    ),
    "a type that contradicts the url": (
        "<taskqueue>\n type local\n url redis://localhost\n</taskqueue>",
        (
            "<taskqueue> (line {1} of {conf}): type local contradicts its url, which is of type"
            " redis; write type redis or leave the type out"
        ),
    ),
    "a variable that is not known": (
        "<environment>\n TASKQUEUE_CONSUMER off\n</environment>\n<taskqueue />",
        (
            "TASKQUEUE_CONSUMER in the environment: this variable is not known (do you mean"
            " TASKQUEUE_CONSUMERS?); known are"
        ),
    ),
    "a variable without a section": (
        "<environment>\n TASKQUEUE_CONSUMERS mail\n</environment>",
        "TASKQUEUE_CONSUMERS in the environment: there is no queue 'mail' (known: none)",
    ),
    "a key of product-config": (
        "<product-config collective.taskqueue>\n queue.default.tmeout 5\n</product-config>",
        (
            "<product-config collective.taskqueue>: queue.default.tmeout: 'tmeout' is not a known"
            " key name (do you mean timeout?); known are"
        ),
    ),
    "a socket without type": (
        "<taskqueue>\n unix_socket_path /redis.sock\n</taskqueue>",
        "<taskqueue> (line {1} of {conf}): type local is the memory of this process",
    ),
    "a url that redis does not know": (
        "<taskqueue>\n type redis\n url localhost:6379\n</taskqueue>",
        "<taskqueue> (line {1} of {conf}): the url of type redis begins with redis://, rediss://,",
    ),
    "a file that depends on the folder": (
        "<taskqueue>\n type sql\n url sqlite:///var/queue.sqlite\n</taskqueue>",
        (
            "<taskqueue> (line {1} of {conf}): the path var/queue.sqlite depends on where a"
            " process is started; write sqlite:////path/to/a/file"
        ),
    ),
    "a class that is no storage": (
        "<taskqueue>\n type fixture.storage.NoStorage\n</taskqueue>",
        (
            "<taskqueue> (line {1} of {conf}): fixture.storage.NoStorage does not implement"
            " ITaskStorage"
        ),
    ),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Start a process for each mistake, side by side as each is short; they all end."""
    instances = {}
    try:
        for mistake, (sections, _) in MISTAKES.items():
            snippet = f"%import collective.taskqueue\n{sections}"
            home = tmp_path_factory.mktemp("mistake")
            instances[mistake] = Instance(home, snippet, ZOPE_ZCML)
            instances[mistake].spawn()
        for instance in instances.values():
            instance.process.wait(START_TIMEOUT)
        yield instances
    finally:
        for instance in instances.values():
            instance.kill()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_stops_the_start(refused, mistake):
    """C52, C81, C113, D27, D31: with one sentence that names the section and its line."""
    instance = refused[mistake]
    first = instance.conf.read_text().split("\n").index("%import collective.taskqueue") + 1
    sentence = MISTAKES[mistake][1].format(
        *range(first, first + 10), conf=f"file://{instance.conf}"
    )
    assert instance.process.returncode == 1
    last = instance.console().strip().splitlines()[-1]
    assert last.startswith(f"configuration error: {sentence}")
    assert "Traceback" not in instance.console()
    assert not instance.lines("Ready to handle requests")
    assert not instance.lines("started")


def test_a_mistake_stops_a_script(zope):
    """zconsole says the same, and the exit code is not 0."""
    instance = zope("%import collective.taskqueue\n<taskqueue>\n colour red\n</taskqueue>")
    script = instance.home / "script.py"
    script.write_text("raise AssertionError")
    command = [sys.executable, "-m", "Zope2.utilities.zconsole", "run", instance.conf, script]
    done = subprocess.run(
        command, env=instance.environ, capture_output=True, text=True, timeout=START_TIMEOUT
    )
    assert done.returncode == 1
    assert "configuration error: <taskqueue> (line " in done.stderr
    assert "Traceback" not in done.stderr


def no_consumers(threads):
    """The threads but for the one that tells subscribers of events, which runs no task."""
    return [name for name in threads if name != "taskqueue-events"]


def test_consumers_wait_for_the_process(bare):
    """C89, C110: with the sections of the README alone; a task queued before the process is
    ready runs after that, once."""
    [opened] = bare.records(event="database-opened")
    assert no_consumers(opened["threads"]) == []
    assert bare.finished(opened["task"])["state"] == "succeeded"
    assert len(bare.records(id=opened["task"])) == 1
    ready = bare.log.read_text().index("queue default: local storage")
    assert bare.log.read_text().index("consumer default of queue default: started") > ready
    assert bare.log.read_text().index(f"task {opened['task']}: ") > ready


SCRIPT = """\
from collective.taskqueue import taskqueue
from collective.taskqueue.interfaces import ITaskQueue
from zope.component import getUtility
import json
import os
import threading
import transaction

queue = getUtility(ITaskQueue, name="default")
ids = [taskqueue.add("/@@fixture-record", params={"number": number}) for number in range(2)]
before = len(queue)
transaction.commit()
child = os.fork()
if not child:
    # Let the parent say what this child knows.
    os._exit(len(queue))
forked = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps({
    "before": before,
    "after": len(queue),
    "forked": forked,
    "ids": ids,
    "headers": queue.status(ids[0]).task.headers,
    "user": queue.status(ids[0]).task.user,
    "threads": [thread.name for thread in threading.enumerate()],
}))
"""


def test_a_script_adds_tasks_and_runs_none(zope):
    """C24: `zconsole run` starts no consumers; what it adds to a local queue is not its own
    to run, and lost with it, which is said. A child that it forks has none of its tasks."""
    instance = zope(SNIPPET)
    done = instance.script(SCRIPT)
    found = json.loads(done.stdout)
    assert (found["before"], found["after"], found["forked"]) == (0, 2, 0)
    assert no_consumers(found["threads"]) == ["MainThread"]
    assert (found["headers"], found["user"]) == ([], None)
    assert instance.records() == []
    for task_id in found["ids"]:
        assert f"task {task_id}: queued, lost with this process" in done.stderr


UNCOMMITTED = "tasks were added but the transaction was not committed, nothing was queued"

TWO_QUEUES = f"{SNIPPET}<taskqueue>\n queue other\n</taskqueue>\n"

#: Adds a task to each queue; a child of a fork that ends as a script does has added none.
ADD = """\
from collective.taskqueue import taskqueue
import os
import sys
import transaction

for queue in ("default", "default", "other"):
    taskqueue.add("/@@fixture-record", queue=queue)
child = os.fork()
if not child:
    sys.exit(0)
os.waitpid(child, 0)
"""

#: For what a script does then, the lines that are said of it.
ENDINGS = {
    "nothing": ("", 1),
    "exit": ("sys.exit(0)", 1),
    "commit": ("transaction.commit()", 0),
    "abort": ("transaction.abort()", 0),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_script_that_does_not_commit(zope, ending):
    """G3 of issue 12: it is told so, once for all that it has added."""
    act, lines = ENDINGS[ending]
    done = zope(TWO_QUEUES).script(ADD + act)
    found = [line for line in done.stderr.splitlines() if UNCOMMITTED in line]
    assert len(found) == lines
    assert all(line.endswith(f"3 {UNCOMMITTED}") for line in found)


OWN_START = """\
from Zope2.Startup.run import configure_wsgi
import sys
import Zope2

configure_wsgi(sys.argv[1])
app = Zope2.app()
"""


def test_a_script_that_starts_zope_itself(zope):
    """G3 of issue 12: as the run command of buildout's instances does; an error ends it."""
    instance = zope(TWO_QUEUES)
    command = [sys.executable, "-c", f"{OWN_START}{ADD}1 / 0", instance.conf]
    done = subprocess.run(
        command, env=instance.environ, capture_output=True, text=True, timeout=START_TIMEOUT
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert done.stderr.count(f"3 {UNCOMMITTED}") == 1


def test_a_server_says_nothing_of_what_it_aborts(zope):
    """G3 of issue 12: requests that fail are none of its scripts."""
    instance = zope(SNIPPET).start()
    for then in ("error", "abort", "doom"):
        query = instance.query({"calls": json.dumps([{"url": "/@@fixture-record"}]), "then": then})
        instance.request("GET", f"/@@fixture-add?{query}")
    assert instance.stop() == 0
    assert UNCOMMITTED not in instance.log.read_text() + instance.console()


#: Hides the demo add-on, which includes this package, from the process.
SITE_CUSTOMIZE = """\
import importlib.metadata as metadata

every = metadata.distributions
metadata.distributions = lambda: [dist for dist in every() if dist.name != "taskqueue-demo"]
"""

INCLUDED = """\
from zope.component import queryUtility
from zope.schema.interfaces import IVocabularyFactory
import sys

print("taskqueue_demo" in sys.modules)
print(len(queryUtility(IVocabularyFactory, "collective.taskqueue.queues")(None)))
"""


def test_a_plone_site_includes_the_package_by_itself(tmp_path):
    """G3 of issue 12: by its entry point alone, without a line of ZCML."""
    instance = Instance(tmp_path, SNIPPET, storage=MEMORY_STORAGE)
    (tmp_path / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    instance.environ["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{instance.environ['PYTHONPATH']}"
    assert instance.script(INCLUDED).stdout.split() == ["False", "1"]
