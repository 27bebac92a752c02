"""Names with dots, as add-ons have them in their code, in every storage of a real process."""

from __future__ import annotations

from pathlib import Path
from services import RedisServer
import pytest
import tempfile


REDIS = "  type redis\n  unix_socket_path $(FIXTURE_REDIS)"
SQL = "  type sql\n  url sqlite:///$(FIXTURE_FILE)"

#: By what the sections of the queue say of its storage.
QUEUES = {
    "rer.newsletter.queue": "",
    "Products.EasyNewsletter.queue": "",
    "redis.rer.newsletter.queue": REDIS,
    "redis": REDIS,
    "sql.Products.EasyNewsletter.queue": SQL,
}


@pytest.fixture
def redis_server():
    server = RedisServer(Path(tempfile.mkdtemp(prefix="redis-"))).start()
    yield server
    server.remove()


def test_names_with_dots(zope, redis_server, tmp_path):
    """C110: of queues and of consumers; each queue has its own tasks, and none of another."""
    lines = ["%import collective.taskqueue"]
    for queue, storage in QUEUES.items():
        lines += ["<taskqueue>", f"  queue {queue}", storage, "</taskqueue>"]
        for name in ("a", "a.b", "rer.newsletter.queue"):
            lines += ["<taskqueue-server>", f"  queue {queue}", f"  name {name}"]
            lines += ["</taskqueue-server>"]
    environ = {"FIXTURE_REDIS": redis_server.socket}
    environ["FIXTURE_FILE"] = str(tmp_path / "queue.sqlite")
    instance = zope("\n".join(lines), environ=environ).start()
    queues = [*QUEUES] * 3
    calls = [{"url": f"/@@fixture-record?name={name}", "queue": name} for name in queues]
    ids = instance.add(*calls, path="")["ids"]
    for queue, task_id in zip(queues, ids, strict=True):
        status = instance.finished(task_id)
        assert (status["queue"], status["state"]) == (queue, "succeeded")
        assert len(instance.records(id=task_id)) == 1
    assert instance.lines("ERROR") == []
    for queue in QUEUES:
        assert instance.lines(f"consumer a.b of queue {queue}: started")
