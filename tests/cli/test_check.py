"""`taskqueue check` on set-ups that are broken: one sentence for what is wrong."""

from cli.setup import COMMAND
from cli.setup import wait_for
from collective.taskqueue.cli.check import faults_of
from collective.taskqueue.storages.facts import Facts
from services import RedisServer
import json
import pytest
import re
import subprocess


REDIS = "<taskqueue>\n  type redis\n  unix_socket_path {}\n</taskqueue>\n"


@pytest.fixture
def broken_server(tmp_path):
    """Start a Redis server of our own, to be spoiled; call it with commands."""
    made = []

    def start(**more):
        folder = tmp_path / f"redis-{len(made)}"
        folder.mkdir()
        made.append(RedisServer(folder, **more).start())
        return made[-1]

    yield start
    for server in made:
        server.stop()


def fault(setup, config=None):
    """Return the one sentence that the command has about what is wrong."""
    words = ("--config", config) if config else ()
    done = setup.here(*words, "check", "--json")
    assert done.returncode == 1, done
    [found] = json.loads(done.stdout)["faults"]
    assert "\n" not in found
    assert "Traceback" not in found
    return found


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ("<taskqueue>\n  type redis\n", "unclosed sections"),
        ("<taskqueue>\n  tipe redis\n</taskqueue>", "tipe"),
        ("<taskqueue>\n  type oracle\n</taskqueue>", "unknown type 'oracle'"),
        ("<taskqueue />\n<taskqueue />", "queue 'default' is already defined by"),
        ("<taskqueue />\n<taskqueue-server>\n  queue x\n</taskqueue-server>", "no queue 'x'"),
        ("", "nor the environment has a queue"),
        ("<taskqueue />", "there is no <taskqueue-server> for it: its tasks do not run"),
        ("<taskqueue>\n  type no.such.Storage\n</taskqueue>", "no.such.Storage cannot be imported"),
        ("<taskqueue>\n  type sql\n</taskqueue>", "type sql needs a url"),
        (
            "<taskqueue>\n  type sql\n  url sqlite:////no/such/folder/q\n</taskqueue>",
            "there is no folder /no/such/folder",
        ),
        (REDIS.format("/no/such/socket"), "its storage is unavailable"),
        (
            "<taskqueue>\n  type sql\n  url postgresql://a:sEcrEt1@127.0.0.1:1/x\n</taskqueue>",
            "its storage is unavailable",
        ),
    ],
)
def test_configuration(make_setup, sections, sentence):
    found = fault(make_setup(sections))
    assert sentence in found
    assert "sEcrEt1" not in found


def test_no_file(make_setup):
    assert fault(make_setup("<taskqueue />"), "nowhere.conf") == "there is no file nowhere.conf"


def test_password(make_setup, broken_server):
    server = broken_server(users={"default": "right"})
    sections = REDIS.format(server.socket).replace("\n</", "\n  password sEcrEt1\n</")
    found = fault(make_setup(sections))
    assert found.startswith("queue default: its storage is unavailable")
    assert "sEcrEt1" not in found


def test_eviction(make_setup, broken_server):
    server = broken_server()
    server.execute("CONFIG SET maxmemory-policy allkeys-lru")
    found = fault(make_setup(REDIS.format(server.socket)))
    assert found == (
        "queue default: the server may evict tasks (maxmemory-policy allkeys-lru); use noeviction"
    )


def test_replica(make_setup, broken_server):
    master, replica = broken_server(tcp=True), broken_server()
    replica.execute(f"REPLICAOF 127.0.0.1 {master.port}")
    found = fault(make_setup(REDIS.format(replica.socket)))
    assert found.startswith("queue default: the server is a replica")


def test_nothing_runs(setup):
    setup.add(2)
    assert fault(setup) == "queue default: 2 tasks queued, and no consumer runs"


@pytest.mark.parametrize(("skew", "words"), [(90, "1 min behind"), (-90, "1 min ahead of")])
def test_clocks(skew, words):
    [found] = faults_of(Facts(product="Redis 7", skew=skew))
    assert found.startswith(f"the clock of this machine is {words} that of its storage")
    assert [*faults_of(Facts(product="Redis 7", skew=1.0))] == []


FILE = "<filestorage>\n  path $INSTANCE/var/Data.fs\n  </filestorage>"


@pytest.mark.parametrize("kind", ["redis-server"])
def test_two_installations(make_setup, sections):
    """A consumer of another zope.conf is found if that one has another database."""
    ours, theirs = (make_setup(sections) for _ in range(2))
    for setup in (ours, theirs):
        (setup.folder / "var").mkdir()
        text = setup.conf.read_text()
        storage = text[text.index("<mappingstorage>") : text.index("</zodb_db>")]
        setup.conf.write_text(text.replace(storage, f"{FILE}\n"))
    with theirs.consumer():
        wait_for(lambda: ours.storage.admin.consumers(), "the consumer")
        found = fault(ours)
        assert str(theirs.conf) in found
        assert found.startswith("queue default: its consumer beside is of")
        assert theirs.json("check")["faults"] == []


def test_all_is_well(setup):
    """Nothing to find: exit code 0, and what the storage is."""
    done = subprocess.run(
        [*COMMAND, "check", "--json"],
        cwd=setup.folder,
        env=setup.environ,
        capture_output=True,
        check=True,
    )
    document = json.loads(done.stdout)
    assert document["ok"] is True
    [note] = document["notes"]
    assert re.match(r"queue default: (Redis|SQLite|PostgreSQL) \d+\.", note)
