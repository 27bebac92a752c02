"""The manifests in examples/kubernetes say what the product takes; `make lint` has their schema."""

from collective.taskqueue import config
from collective.taskqueue.config import datatypes
from collective.taskqueue.config import ServerSettings
from commandlines import options_of
from pathlib import Path
import pytest
import yaml


FOLDER = Path(__file__).parents[2] / "examples" / "kubernetes"

#: The keys of the secret.
KEYS = {"relstorage-dsn", "redis-password"}


def load():
    """Return all objects by kind and name."""
    found = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        for each in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            key = each["kind"], each["metadata"]["name"]
            assert key not in found
            found[key] = each
    return found


OBJECTS = load()


def pod(name):
    return OBJECTS["Deployment", name]["spec"]["template"]["spec"]


def container(name):
    (found,) = pod(name)["containers"]
    return found


@pytest.fixture
def options(tmp_path):
    """The options of the worker, from the arguments of its container."""
    program, command, *words = container("plone-worker")["args"]
    assert (program, command, words[0]) == ("bin/taskqueue", "worker", "etc/zope.ini")
    return options_of(words, tmp_path)


def environment(name, folder):
    """Return the variables of a container, with secrets in this folder."""
    found = {}
    for source in container(name)["envFrom"]:
        found |= OBJECTS["ConfigMap", source["configMapRef"]["name"]]["data"]
    for item in container(name)["env"]:
        found[item["name"]] = item.get("value", "a secret")
        if "valueFrom" in item:
            reference = item["valueFrom"]["secretKeyRef"]
            assert reference["name"] == "plone"
            assert reference["key"] in KEYS
    (mount,) = (item for item in container(name)["volumeMounts"] if item["name"] == "secrets")
    for key in KEYS:
        (folder / key).write_text("s3cret\n")
    return {name: value.replace(mount["mountPath"], str(folder)) for name, value in found.items()}


@pytest.mark.parametrize("name", ["plone-web", "plone-worker"])
def test_the_queue(name, tmp_path):
    """Both kinds of processes have the same queue, with the password from a file."""
    settings = config.load(None, environment(name, tmp_path))
    (queue,) = settings.queues
    assert (queue.type, queue.url, queue.password) == ("redis", "redis://redis:6379/0", "s3cret")


def test_web_servers_run_no_tasks(tmp_path):
    assert config.load(None, environment("plone-web", tmp_path)).servers == ()


def test_the_options_of_the_worker(options):
    assert options.queue == ("default:2",)
    # The image has one zope.conf for each kind of database.
    assert options.variables == {"config_file": "relstorage.conf"}


def test_the_probes_of_the_worker(options):
    """At the port, and at an address that can be reached from outside of the container."""
    ports = {item["name"]: item["containerPort"] for item in container("plone-worker")["ports"]}
    probes = [
        container("plone-worker")[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness")
    ]
    assert [probe["path"] for probe in probes] == ["/live", "/ready"]
    assert {ports[probe["port"]] for probe in probes} == {options.probe_port}
    assert options.probe_host == "0.0.0.0"


def test_tasks_have_time_to_finish():
    """Kubernetes waits longer than a consumer does."""
    assert pod("plone-worker")["terminationGracePeriodSeconds"] >= ServerSettings().grace + 15


def test_a_worker_leaves_before_it_is_killed(options):
    """All processes at their limit are below the limit of the container, with some room."""
    limit = container("plone-worker")["resources"]["limits"]["memory"]
    bytes_of_container = datatypes.size(limit.replace("i", "B"))
    assert options.processes * options.max_memory * 1.2 < bytes_of_container


@pytest.mark.parametrize("name", ["plone-web", "plone-worker"])
def test_what_belongs_together(name):
    """Labels, and the volumes of the container."""
    deployment = OBJECTS["Deployment", name]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert OBJECTS["PodDisruptionBudget", name]["spec"]["selector"]["matchLabels"] == labels
    volumes = {item["name"] for item in pod(name)["volumes"]}
    assert {item["name"] for item in container(name)["volumeMounts"]} == volumes
    (secret,) = (item["secret"] for item in pod(name)["volumes"] if "secret" in item)
    assert secret == {"secretName": "plone"}


def test_the_service_leads_to_the_web_servers():
    service = OBJECTS["Service", "plone"]["spec"]
    web = OBJECTS["Deployment", "plone-web"]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"] == web
    assert service["ports"][0]["targetPort"] in {
        item["name"] for item in container("plone-web")["ports"]
    }
