"""The files in examples/buildout: what Zope gets from them, and that version 1 is quoted."""

from collective.taskqueue import config
from configparser import RawConfigParser
from hashlib import sha256
from pathlib import Path
import pytest
import ZConfig
import Zope2.Startup


FOLDER = Path(__file__).parents[2] / "examples" / "buildout"
SCHEMA = Path(Zope2.Startup.__file__).parent / "wsgischema.xml"

ZOPE_CONF = """\
instancehome {home}
<environment>
{environment}
</environment>
<zodb_db main>
    <mappingstorage />
    mount-point /
</zodb_db>
{snippet}
"""

#: What stands in the README of version 1.0, line by line: the beginning of its SHA-256.
DIGESTS = {
    "minimal.cfg": "0e6ad717dc3785eb",
    "queues.cfg": "3a5b3b0d95d9bc19",
    "redis.cfg": "9cf2b55dae146712",
    "redis-queues.cfg": "4a17951a7606ba2b",
}


def part(name, section):
    """Return the options of a part, with those of the section and the files that it extends."""
    parser = RawConfigParser(delimiters=("=",), strict=False)
    parser.read([FOLDER / "base.cfg", FOLDER / name], encoding="utf-8")
    found = dict(parser[section])
    # Buildout's `<= instance`; for this parser it is an option without a name.
    return {**parser[found.pop("<", section)], **found}


def settings(name, section, home):
    """Return the configuration of an instance, as the schema of Zope reads it."""
    options = part(name, section)
    assert options["recipe"] == "plone.recipe.zope2instance"
    text = ZOPE_CONF.format(
        home=home,
        environment=options.get("environment-vars", ""),
        snippet=options["zope-conf-additional"],
    )
    text = text.replace("${buildout:directory}", str(home))
    text = text.replace("${:_buildout_section_name_}", section)
    conf = home / "zope.conf"
    conf.write_text(text)
    found, _ = ZConfig.loadConfig(ZConfig.loadSchema(str(SCHEMA)), str(conf))
    return config.resolve(found.product_config, found.environment)


@pytest.mark.parametrize("name", DIGESTS)
def test_the_documentation_of_version_1_is_quoted(name):
    """Its lines must not be changed; they work as they are."""
    quoted = (FOLDER / name).read_text(encoding="utf-8").partition("[instance]\n")[2]
    assert sha256(quoted.encode()).hexdigest().startswith(DIGESTS[name])


@pytest.mark.parametrize(
    ("name", "kind", "queues", "consumer"),
    [
        ("minimal.cfg", "local", ["default"], "default"),
        ("queues.cfg", "local", ["default", "mailhost"], "default"),
        ("redis.cfg", "redis", ["default"], "instance"),
        ("redis-queues.cfg", "redis", ["default", "mailhost"], "instance"),
    ],
)
def test_what_version_1_configured(name, kind, queues, consumer, tmp_path):
    """C110, C111: each queue has a consumer, with the name of the section of buildout."""
    found = settings(name, "instance", tmp_path)
    assert sorted(queue.queue for queue in found.queues) == queues
    assert sorted(server.queue for server in found.servers) == queues
    assert {queue.type for queue in found.queues} == {kind}
    assert {server.name for server in found.servers} == {consumer}
    if kind == "redis":
        assert {queue.unix_socket_path for queue in found.queues} == {f"{tmp_path}/var/redis.sock"}


def test_a_web_server_and_a_worker(tmp_path):
    """The same queue; only the worker has a consumer."""
    web, worker = (settings("workers.cfg", name, tmp_path) for name in ("web", "worker"))
    sockets = [queue.unix_socket_path for queue in (*web.queues, *worker.queues)]
    assert sockets == [f"{tmp_path}/var/redis.sock"] * 2
    assert web.servers == ()
    assert [(each.name, each.concurrent_limit) for each in worker.servers] == [("worker", 2)]


def test_a_file_storage_has_one_process():
    """Two instances share the database of the server."""
    assert part("workers.cfg", "zeo")["recipe"] == "plone.recipe.zeoserver"
    for name in ("web", "worker"):
        assert part("workers.cfg", name)["zeo-client"] == "on"
