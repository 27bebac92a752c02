"""Where a queue is, in every way in which zope.conf can say it: one real process uses all."""

from __future__ import annotations

from acceptance.instance import Instance
from acceptance.instance import START_TIMEOUT
from acceptance.instance import ZOPE_ZCML
from pathlib import Path
from services import PostgresServer
from services import RedisServer
import psycopg
import pytest
import shutil
import tempfile


#: With signs that are percent-encoded in a url.
PASSWORD = "a/b#c@d:e%f"
ENCODED = "a%2Fb%23c%40d%3Ae%25f"

REDIS = {
    "url-host-port-db": "url redis://:{ENCODED}@127.0.0.1:{redis.port}/3",
    "url-without-db": "url redis://:{ENCODED}@localhost:{redis.port}",
    "url-user": "url redis://jane:{ENCODED}@127.0.0.1:{redis.port}/4",
    "url-user-and-db-in-the-query": "url redis://jane:{ENCODED}@127.0.0.1:{redis.port}?db=5",
    "url-tls": (
        "url rediss://:{ENCODED}@127.0.0.1:{redis.tls_port}/6?ssl_ca_certs={redis.certificate}"
    ),
    "url-tls-unchecked": (
        "url rediss://jane:{ENCODED}@localhost:{redis.tls_port}?ssl_cert_reqs=none&db=6"
    ),
    "url-unix": "url unix://jane:{ENCODED}@{redis.socket}",
    "url-unix-db": "url unix://:{ENCODED}@{redis.socket}?db=7",
    "url-unix-query": "url unix://{redis.socket}?db=8&username=jane&password={ENCODED}",
    "keys": "host 127.0.0.1\n port {redis.port}\n db 9\n password {PASSWORD}",
    "keys-unix": "unix_socket_path {redis.socket}\n db 10\n password {PASSWORD}",
}

#: Two queues of one database have one file.
SQL = {
    "file": "url sqlite:///{folder}/plain.sqlite",
    "file-driver": "url sqlite+pysqlite:///{folder}/plain.sqlite",
    "file-blank": "url sqlite:///{folder}/with a blank.sqlite",
    "file-encoded": "url sqlite:///{folder}/what%3F%20100%25.sqlite",
    "file-uri": "url sqlite:///file:{folder}/u%3Fri.sqlite?uri=true",
    "socket": "url postgresql:///postgres?host={postgres.folder}&user=postgres&port={postgres.port}",
    "socket-user": "url postgresql://postgres@/postgres?host={postgres.folder}&port={postgres.port}",
    "tcp": "url postgresql://postgres@127.0.0.1:{postgres.port}/postgres",
    "tcp-driver": "url postgresql+psycopg://postgres@127.0.0.1:{postgres.port}/postgres",
    "tcp-password": "url postgresql://jane:{ENCODED}@127.0.0.1:{postgres.port}/postgres",
    "tcp-option": "url postgresql://postgres@127.0.0.1:{postgres.port}/postgres?sslmode=prefer",
}

FILES = {"plain.sqlite", "with a blank.sqlite", "what? 100%.sqlite", "u?ri.sqlite"}


@pytest.fixture(scope="module")
def redis():
    # The path of a socket may have a hundred characters, and a folder of pytest has more.
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    users = {"default": PASSWORD, "jane": PASSWORD}
    server = RedisServer(folder, tcp=True, users=users).start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def postgres():
    server = PostgresServer(tcp=True).start()
    with psycopg.connect(server.tcp_url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE jane LOGIN SUPERUSER")
    yield server
    server.remove()


@pytest.fixture
def folder():
    folder = Path(tempfile.mkdtemp(prefix="queues-"))
    yield folder
    shutil.rmtree(folder)


def test_every_spelling(zope, redis, postgres, folder):
    """E5 of issue 12: a task of each queue is run; nothing that is printed has a password."""
    lines = ["%import collective.taskqueue"]
    names = {"ENCODED": ENCODED, "PASSWORD": PASSWORD}
    names |= {"redis": redis, "postgres": postgres, "folder": folder}
    for kind, spellings in (("redis", REDIS), ("sql", SQL)):
        for name, spelling in spellings.items():
            lines += ["<taskqueue>", f" queue {name}", f" type {kind}"]
            lines += [f" {spelling.format_map(names)}", "</taskqueue>"]
            lines += ["<taskqueue-server>", f" queue {name}", "</taskqueue-server>"]
    instance = zope("\n".join(lines)).start()
    queues = [*REDIS, *SQL]
    calls = [{"url": f"/@@fixture-record?name={name}", "queue": name} for name in queues]
    for name, task_id in zip(queues, instance.add(*calls, path="")["ids"], strict=True):
        assert instance.finished(task_id)["state"] == "succeeded", name
    assert {path.name for path in folder.iterdir() if path.suffix == ".sqlite"} == FILES
    assert instance.stop() == 0
    assert instance.lines("ERROR") == []
    for text in (instance.log.read_text(), instance.console()):
        assert PASSWORD not in text
        assert ENCODED not in text


UNREADABLE = "its url cannot be read; in a user, a password and what follows a ?, every sign but"

#: What is wrong, and the sentence that follows the section and its line.
MISTAKES = {
    "redis-unescaped": ("redis", "url redis://:s3c/r3t@127.0.0.1:1/0", UNREADABLE),
    "redis-two-ats": ("redis", "url redis://jane:s3c@r3t@127.0.0.1:1/0", UNREADABLE),
    "redis-port": (
        "redis",
        "url redis://:s3cr3t@127.0.0.1:port/0",
        "the port in its url is no number from 1 to 65535",
    ),
    "redis-database": (
        "redis",
        "url redis://127.0.0.1:1/tasks",
        "the path in its url is the number of a database, like /0",
    ),
    "redis-database-key": ("redis", "db x", "db is the number of a database, 0 or more"),
    "redis-database-99": (
        "redis",
        "unix_socket_path {redis.socket}\n db 99\n password {PASSWORD}",
        "the server has no database of this number",
    ),
    "redis-url-database-99": (
        "redis",
        "url redis://:{ENCODED}@127.0.0.1:{redis.port}/99",
        "the server has no database of this number",
    ),
    "postgresql-unescaped": ("sql", "url postgresql://jane:s3c#r3t@127.0.0.1:1/db", UNREADABLE),
    "postgresql-two-ats": ("sql", "url postgresql://jane:s3c@r3t@127.0.0.1:1/db", UNREADABLE),
    "postgres": (
        "sql",
        "url postgres://jane:s3cr3t@127.0.0.1:1/db",
        "a url of PostgreSQL begins with postgresql://, not with postgres://",
    ),
    "file-question": (
        "sql",
        "url sqlite:////tmp/a?b",
        "the url of a file takes no options; write a ? that is a part of the path as %3F",
    ),
    "file-folder": ("sql", "url sqlite:////tmp", "/tmp is a folder"),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory, redis):
    """Start a process for each mistake, side by side as each is short; they all end."""
    instances = {}
    names = {"ENCODED": ENCODED, "PASSWORD": PASSWORD, "redis": redis}
    try:
        for mistake, (kind, lines, _) in MISTAKES.items():
            section = f"<taskqueue>\n type {kind}\n {lines.format_map(names)}\n</taskqueue>"
            home = tmp_path_factory.mktemp("mistake")
            snippet = f"%import collective.taskqueue\n{section}"
            instances[mistake] = Instance(home, snippet, ZOPE_ZCML)
            instances[mistake].spawn()
        for instance in instances.values():
            instance.process.wait(START_TIMEOUT)
        yield instances
    finally:
        for instance in instances.values():
            instance.kill()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake(refused, mistake):
    """E5, D3 of issue 12: Zope does not start, one sentence says where, nothing says a secret."""
    instance = refused[mistake]
    assert instance.process.returncode == 1
    line = instance.conf.read_text().split("\n").index("<taskqueue>") + 1
    place = f"<taskqueue> (line {line} of file://{instance.conf})"
    last = instance.console().strip().splitlines()[-1]
    assert last.partition(": ")[2].startswith(f"{place}: {MISTAKES[mistake][2]}")
    log = instance.log.read_text() if instance.log.exists() else ""
    for secret in ("s3c", "r3t", PASSWORD, ENCODED):
        assert secret not in instance.console()
        assert secret not in log
