"""examples/compose: what can be checked of its files without starting anything."""

from collective.taskqueue import config
from collective.taskqueue.cli.worker import worker
from collective.taskqueue.worker.options import worker_options
from contextlib import chdir
from importlib.metadata import metadata
from packaging.requirements import Requirement
from pathlib import Path
from runpy import run_path
from textwrap import indent
from types import SimpleNamespace
from unittest import mock
import fnmatch
import os
import pytest
import re
import shutil
import signal
import subprocess
import sys
import yaml


ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "examples" / "compose"
DATABASES = ("relstorage", "zeo")

#: How the run without Docker reads the files.
READER = SimpleNamespace(**run_path(str(COMPOSE / "local" / "composefile.py")))

DOCKERFILE = (COMPOSE / "Dockerfile").read_text(encoding="utf-8")
SERVICES = yaml.safe_load((COMPOSE / "docker-compose.yml").read_text(encoding="utf-8"))["services"]

#: Zope's own part of a zope.conf.
ZOPE_CONF = """\
instancehome {folder}
<zodb_db main>
    mount-point /
    <mappingstorage />
</zodb_db>
"""


def copied():
    """Return source and target of each file and folder that the Dockerfile copies."""
    lines = re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE)
    words = [[word for word in line.split() if not word.startswith("--")] for line in lines]
    return [(source, target) for *sources, target in words for source in sources]


@pytest.fixture(params=DATABASES)
def services(request):
    return READER.read_services(COMPOSE, {"DATABASE": request.param})


@pytest.fixture
def secrets(tmp_path):
    """A folder in place of /run/secrets."""
    for name in ("redis-password", "postgres-password"):
        (tmp_path / name).write_text("s3cret\n", encoding="utf-8")
    return tmp_path


def settings(service, secrets):
    """Return the configuration that a container gets from its image and its environment."""
    conf = secrets / "zope.conf"
    snippet = (COMPOSE / "taskqueue.conf").read_text(encoding="utf-8")
    conf.write_text(ZOPE_CONF.format(folder=secrets) + snippet, encoding="utf-8")
    environ = {
        key: text.replace("/run/secrets", str(secrets)) for key, text in service.environ.items()
    }
    return config.load(conf, environ)


def test_web_servers_and_workers(services, secrets):
    """One image: both have the queue of the environment, and only workers have a consumer."""
    web, of_worker = (settings(services[name], secrets) for name in ("web", "worker"))
    assert web.queues == of_worker.queues
    (queue,) = web.queues
    assert (queue.type, queue.url) == ("redis", "redis://redis:6379/0")
    assert (queue.password, queue.timeout) == ("s3cret", 600)
    assert web.servers == ()
    (consumer,) = of_worker.servers
    assert (consumer.queue, consumer.concurrent_limit) == ("default", 2)


def test_docker_waits_longer_than_a_consumer(services, secrets):
    """Else Docker would kill tasks that have time left."""
    (consumer,) = settings(services["worker"], secrets).servers
    assert services["worker"].grace > consumer.grace


def test_how_they_are_asked_to_stop(services):
    """Only SIGINT ends runwsgi as the first process of a container; a worker hears SIGTERM."""
    assert services["web"].stop_signal == signal.SIGINT
    assert services["worker"].stop_signal == signal.SIGTERM


def test_the_command_of_the_worker(services, tmp_path):
    """Its parser takes it, and the probe of the health check is its own."""
    program, name, ini, *rest = services["worker"].command
    assert (program, name, ini) == ("bin/taskqueue", "worker", "etc/zope.ini")
    (tmp_path / "etc").mkdir()
    (tmp_path / ini).touch()
    with chdir(tmp_path):
        found = dict(worker.make_context("worker", [ini, *rest]).params)
        assert worker_options(ini, found["variables"], {"probe_port": [found["probe_port"]]})
    assert services["worker"].probe == f"http://127.0.0.1:{found['probe_port']}/ready"
    database = "zeo" if "zeo" in services else "relstorage"
    assert found["variables"] == (f"config_file={database}.conf",)


def test_services_of_a_database(services):
    """The ZODB has one server, and what each container needs is started before it."""
    servers = {"postgres", "zeo"} & set(services)
    assert len(servers) == 1
    assert set(services) == {"proxy", "redis", "site", "web", "worker", *servers}
    assert {name for name in services if services[name].restarts} == set(services) - {"site"}
    for name in ("site", "web", "worker"):
        needed = SERVICES[name]["depends_on"]
        assert {*servers, "redis"} <= set(needed)
        assert all(SERVICES[each]["healthcheck"] for each in needed)
        assert [each for each in needed if not needed[each].get("required", True)] == [
            each for each in needed if "profiles" in SERVICES[each]
        ]


def test_the_database_is_chosen_in_one_file():
    """A profile starts the server of the database that the containers are told of."""
    lines = (COMPOSE / ".env").read_text(encoding="utf-8").splitlines()
    chosen = dict(line.split("=") for line in lines if not line.startswith("#"))
    assert chosen["DATABASE"] == chosen["COMPOSE_PROFILES"]
    profiles = {name for each in SERVICES.values() for name in each.get("profiles", ())}
    assert chosen["DATABASE"] in profiles
    assert profiles == {*DATABASES, "setup"}
    for name in DATABASES:
        assert (COMPOSE / f"{name}.env").is_file()


def test_secrets(services):
    """Each is a file that is mounted, and that git ignores; none is in the environment."""
    whole = yaml.safe_load((COMPOSE / "docker-compose.yml").read_text(encoding="utf-8"))
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/examples/compose/secrets/" in ignored
    for name, secret in whole["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
    for name, service in services.items():
        texts = [*service.environ.values(), *service.command]
        used = set(re.findall(r"/run/secrets/([\w-]+)", " ".join(texts)))
        assert used <= set(SERVICES[name].get("secrets", ()))
        secret = [key for key in service.environ if re.search(r"PASSWORD|SECRET", key)]
        assert all(key.endswith("_FILE") for key in secret)


def test_the_page_shows_the_configuration():
    """The how-to quotes taskqueue.conf."""
    conf = (COMPOSE / "taskqueue.conf").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "how-to" / "compose.rst").read_text(encoding="utf-8")
    assert indent(conf[conf.index("%import") :], " " * 3) in page


def test_redis_keeps_tasks():
    """It writes each change to a file, and evicts nothing."""
    lines = (COMPOSE / "redis.conf").read_text(encoding="utf-8").splitlines()
    found = dict(line.split() for line in lines if line and not line.startswith("#"))
    assert found["appendonly"] == "yes"
    assert found["maxmemory-policy"] == "noeviction"
    assert "redis:/data" in SERVICES["redis"]["volumes"]


def test_the_proxy_knows_all_web_servers():
    """As many as there are, on the port on which they listen."""
    text = (COMPOSE / "haproxy.cfg").read_text(encoding="utf-8")
    (number, name, port) = re.search(r"server-template web (\d+) (\w+):(\d+) ", text).groups()
    assert int(number) == SERVICES[name]["deploy"]["replicas"]
    web = READER.read_services(COMPOSE, {"DATABASE": "zeo"})[name]
    assert web.probe == f"http://127.0.0.1:{port}/ok"
    assert "httpchk GET /ok" in text


def test_the_image_has_what_it_names():
    """Sources exist, and the context of the build has them; the extras exist."""
    lines = (COMPOSE / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert sent == {source for source, _ in copied()}
    assert all((ROOT / source).exists() for source in sent)
    assert lines[1] == "*"
    extras = set(metadata("collective.taskqueue").get_all("Provides-Extra"))
    for name in re.findall(r"\w[\w./]*\[[\w,]+\]", DOCKERFILE):
        assert Requirement(name.replace("src/", "")).extras <= extras


def test_the_package_builds_from_what_is_copied(tmp_path):
    """As in the image: nothing else of the checkout is there."""
    context = tmp_path / "context"
    for source, target in copied():
        name = target.strip("/") + (f"/{source}" if target.endswith("/") else "")
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
            shutil.copytree(ROOT / source, path, ignore=ignored)
        else:
            shutil.copy(ROOT / source, path)
    for package in ("taskqueue", "demo"):
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
        command += ["--outdir", str(tmp_path / "wheels"), str(context / "src" / package)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    names = sorted(path.name for path in (tmp_path / "wheels").iterdir())
    assert fnmatch.filter(names, "collective_taskqueue-2*.whl")
    assert fnmatch.filter(names, "taskqueue_demo-*.whl")


@pytest.mark.parametrize("password", ["s3cret with $ and 'quotes'", None])
def test_the_entry_point(tmp_path, password):
    """It passes the password from its file on, and all arguments as they are."""
    image = READER.read_image(COMPOSE / "Dockerfile", ROOT)
    assert image.entrypoint == ["/app/entrypoint.sh"]
    text = image.files["/app/entrypoint.sh"].read_text(encoding="utf-8")
    script, following = tmp_path / "entrypoint.sh", tmp_path / "docker-entrypoint.sh"
    script.write_text(text.replace("/app", str(tmp_path)), encoding="utf-8")
    following.write_text('#!/bin/sh\nprintf "%s|" "${PGPASSWORD-unset}" "$@"\n', encoding="utf-8")
    environ = {"PATH": os.environ["PATH"]}
    if password is not None:
        (tmp_path / "password").write_text(f"{password}\n", encoding="utf-8")
        environ["PGPASSWORD_FILE"] = str(tmp_path / "password")
    for path in (script, following):
        path.chmod(0o755)
    out = subprocess.run(
        [script, "start", "a b"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert out == f"{password or 'unset'}|start|a b|"


@pytest.mark.parametrize("database", DATABASES)
def test_the_configuration_that_stands_for_that_of_the_image(database, secrets):
    """Zope's own schema takes it, with the variables that the containers have."""
    conf = COMPOSE / "local" / "app" / "etc" / f"{database}.conf"
    text = conf.read_text(encoding="utf-8").replace("/app", str(secrets))
    copy = secrets / "zope.conf"
    copy.write_text(text.replace("/data", str(secrets)), encoding="utf-8")
    service = READER.read_services(COMPOSE, {"DATABASE": database})["web"]
    environ = {key: text for key, text in service.environ.items() if "TASKQUEUE" not in key}
    environ["CLIENT_HOME"] = str(secrets)
    with mock.patch.dict(os.environ, environ):
        assert config.load(copy, {}).queues == ()
