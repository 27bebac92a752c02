"""The files in examples/cookiecutter: what the variables become, and that it works."""

from collective.taskqueue import config
from paste.deploy.loadwsgi import loadcontext
from paste.deploy.loadwsgi import SERVER
from pathlib import Path
from services import RedisServer
import pytest
import re
import subprocess
import sys
import yaml
import ZConfig
import Zope2.Startup


FOLDER = Path(__file__).parents[2] / "examples" / "cookiecutter"
SCHEMA = Path(Zope2.Startup.__file__).parent / "wsgischema.xml"
HOME = "/srv/plone/instance"


@pytest.fixture
def variables():
    return yaml.safe_load((FOLDER / "instance.yaml").read_text())["default_context"]


@pytest.fixture
def redis_server(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis"), tcp=True).start()
    yield server
    server.stop()


@pytest.fixture
def conf(tmp_path, redis_server):
    """The zope.conf, with folders and a Redis that there are."""
    text = (FOLDER / "zope.conf").read_text().replace(HOME, str(tmp_path))
    (tmp_path / "var").mkdir()
    path = tmp_path / "zope.conf"
    path.write_text(text.replace("127.0.0.1:6379", f"127.0.0.1:{redis_server.port}"))
    return path


def test_the_section_of_the_variables(variables):
    """The rule of the template: a section for each name, and a line for each of its keys."""
    lines = []
    for name, keys in sorted(variables["product_config"].items()):
        lines.append(f"<product-config {name}>")
        lines += [f"    {key} {value}" for key, value in sorted(keys.items())]
        lines.append("</product-config>\n")
    assert "\n".join(lines) in (FOLDER / "zope.conf").read_text()


def test_other_variables(variables):
    """They stand where the template writes them."""
    text = (FOLDER / "zope.conf").read_text()
    assert re.search(r"pool-size (\d+)", text)[1] == variables["db_pool_size"]
    assert variables["db_storage"] == "zeo"
    assert re.search(r"server (\S+)", text)[1] == variables["db_zeo_server"]
    server = loadcontext(SERVER, f"config:{FOLDER}/zope.ini", name="main").local_conf
    found = {"listen": variables["wsgi_listen"], "threads": variables["wsgi_threads"]}
    assert server == found


def test_zope_reads_it(conf, variables):
    """With the schema of Zope; there are as many connections as a worker runs tasks."""
    found, _ = ZConfig.loadConfig(ZConfig.loadSchema(str(SCHEMA)), str(conf))
    settings = config.resolve(found.product_config, {})
    assert {(queue.queue, queue.type) for queue in settings.queues} == {
        ("default", "redis"),
        ("mail", "redis"),
    }
    limits = {server.queue: server.concurrent_limit for server in settings.servers}
    assert limits == {"default": 2, "mail": 1}
    (database,) = found.databases
    assert database.config.pool_size >= sum(limits.values())
    assert database.config.pool_size >= int(variables["wsgi_threads"])


def test_all_is_as_it_should_be(conf):
    """The command that an operator calls first finds nothing wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "collective.taskqueue", "--config", str(conf), "check"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "queue default: Redis" in done.stdout
    assert "queue mail: Redis" in done.stdout
