"""The worker of examples/kubernetes: its probes, and its end, as a kubelet sees them."""

from acceptance.instance import wait_for
from acceptance.workers import PASSWORD
from pathlib import Path
import signal
import sys
import yaml


MANIFEST = Path(__file__).parents[2] / "examples" / "kubernetes" / "worker.yaml"
IMAGE = Path(sys.executable).parents[1]


def test_the_worker_of_the_manifest(deployed, short):
    """Alive while it loads Zope, then ready; it runs a task, and TERM ends it with 0."""
    deployment, _ = yaml.safe_load_all(MANIFEST.read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    home = deployed.instance.home
    # As plone-backend has it: one zope.conf for each kind of database, chosen by a variable.
    deployed.instance.conf.rename(home / "etc" / "relstorage.conf")
    deployed.ini.write_text(deployed.ini.read_text().replace("/zope.conf", "/%(config_file)s"))
    (short / "redis-password").write_text(PASSWORD)
    deployed.instance.environ |= {
        "TASKQUEUE_URL": f"unix://{short}/redis.sock",
        "TASKQUEUE_PASSWORD_FILE": str(short / "redis-password"),
    }
    (port,) = (item["containerPort"] for item in container["ports"])
    words = [word.replace(str(port), str(deployed.probe_port)) for word in container["args"]]
    words[0], words[2] = str(IMAGE / words[0]), str(home / words[2])
    deployed.instance.spawn(*words)
    deployed.wait_for("answers probes")
    live, ready = (
        container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("liveness", "readiness")
    )
    assert deployed.probe(live) == (200, "ok\n")
    assert deployed.probe(ready)[0] == 503
    deployed.wait_for("worker: ready, all 2 processes")
    wait_for(lambda: deployed.probe(ready)[0] == 200, "the worker to be ready")
    ids = deployed.put("/@@fixture-record", 5)
    wait_for(lambda: deployed.queue.counts()["succeeded"] == 5, "the tasks")
    assert deployed.runs() == dict.fromkeys(ids, 1)
    deployed.instance.signal(signal.SIGTERM)
    assert deployed.instance.wait() == 0
