"""The options of a worker, from texts."""

from collective.taskqueue.worker.exits import Exit
from collective.taskqueue.worker.exits import WorkerError
from collective.taskqueue.worker.options import worker_options
from collective.taskqueue.worker.options import WorkerOptions
import pytest


@pytest.fixture
def ini(tmp_path):
    path = tmp_path / "zope.ini"
    path.touch()
    return str(path)


def test_all(ini):
    texts = {
        "queue": ["default", "mail:2"],
        "burst": ["on"],
        "processes": ["3"],
        "max_tasks": ["1000"],
        "max_memory": ["512MB"],
        "probe_port": ["8090"],
        "probe_host": ["0.0.0.0"],
    }
    options = worker_options(ini, ["port=80", "url=a=b"], texts)
    assert options == WorkerOptions(
        ini=ini,
        variables={"port": "80", "url": "a=b"},
        queue=("default", "mail:2"),
        burst=True,
        processes=3,
        max_tasks=1000,
        max_memory=512 * 1024**2,
        probe_port=8090,
        probe_host="0.0.0.0",
    )
    assert options.consumers() == [("default", None), ("mail", 2)]


def test_defaults(ini):
    options = worker_options(ini, {}, {"queue": [], "max_tasks": []})
    assert options == WorkerOptions(ini=ini)
    assert options.consumers() is None


def test_for_another_process(ini):
    """All of it arrives; passwords among the variables are in no traceback or log."""
    options = worker_options(ini, ["password=s3cret"], {"queue": ["mail:2"], "max_tasks": ["5"]})
    assert WorkerOptions.loads(options.dumps()) == options
    assert "\n" not in options.dumps()
    assert "s3cret" not in repr(options)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("queue", "a/b", "queue: a name is made of letters"),
        ("queue", "mail:", "queue: '' is no number of tasks; write mail:2"),
        ("queue", "mail:-1", "queue: '-1' is no number of tasks; write mail:2"),
        ("queue", "mail:²", "queue: '²' is no number of tasks; write mail:2"),
        ("burst", "maybe", "burst: 'maybe' is neither on nor off"),
        ("max_tasks", "0", "max_tasks: the number must be at least 1"),
        ("probe_port", "65536", "probe_port: a port is a number from 1 to 65535"),
        ("prob_port", "1", "a worker has no option prob_port (known: queue, burst, processes,"),
    ],
)
def test_mistakes(ini, name, text, sentence):
    with pytest.raises(WorkerError) as caught:
        worker_options(ini, [], {name: [text]})
    assert str(caught.value).startswith(sentence)
    assert caught.value.code is Exit.USAGE


def test_a_queue_is_named_twice(ini):
    with pytest.raises(WorkerError, match="queue: mail is named twice"):
        worker_options(ini, [], {"queue": ["mail", "mail:2"]})
