"""What a storage says of a server that it cannot use has no password in it."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.storages.secrets import masked
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql.dialects.dialect import dialect_of
from collective.taskqueue.testing.contract.base import new_task
from pathlib import Path
from services import RedisServer
import psycopg
import pytest
import redis
import tempfile
import traceback


#: Of the servers, and another one that they do not know.
RIGHT, WRONG = "right-s3cret", "wrong-s3cret"


@pytest.fixture(scope="module")
def redis_with_users():
    server = RedisServer(Path(tempfile.mkdtemp(prefix="redis-")), users={"default": RIGHT}).start()
    yield server
    server.remove()


def said(storage):
    """All that is said when a batch cannot be staged, with what stands behind it."""
    with pytest.raises(StorageUnavailable) as caught:
        storage.stage("batch", (new_task(),))
    storage.close()
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", ["unix://:{}@{}", "unix://nobody:{}@{}", "unix://{1}?password={0}"])
def test_a_redis_that_knows_no_such_user(redis_with_users, url):
    """D3 of issue 12."""
    url = url.format(WRONG, redis_with_users.socket)
    text = said(RedisStorage(QueueSettings(type="redis", url=url)))
    assert "invalid username-password pair" in text
    assert "s3cret" not in text


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_redis_that_is_not_there(scheme):
    """D3 of issue 12."""
    url = f"{scheme}://jane:{WRONG}@127.0.0.1:1/0"
    assert "s3cret" not in said(RedisStorage(QueueSettings(type="redis", url=url)))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://jane:{}@127.0.0.1:1/postgres",
        "postgresql://127.0.0.1:1/postgres?user=jane&password={}",
        "postgresql://jane:{}@127.0.0.1/postgres?sslmode=s3",
        "postgresql://jane:{}@127.0.0.1/postgres?keepalives_idle=x",
        "postgresql://jane:{}@/postgres?host=/nowhere",
    ],
)
def test_a_postgresql_that_cannot_be_used(url):
    """D3 of issue 12."""
    url = url.format(WRONG)
    assert "s3cret" not in said(SqlStorage(QueueSettings(type="sql", url=url)))


def test_a_driver_that_tells_all(monkeypatch):
    """D3 of issue 12: a known password is masked, in any message of another driver version."""

    def connect(*args, **options):
        raise psycopg.OperationalError(f"no conninfo: user=jane password={options['password']}")

    monkeypatch.setattr("collective.taskqueue.storages.sql.dialects.driver.connect", connect)
    url = f"postgresql://jane:{WRONG}@127.0.0.1:1/postgres"
    text = said(SqlStorage(QueueSettings(type="sql", url=url)))
    assert "no conninfo: user=jane password=***" in text
    assert "s3cret" not in text

    def refuse(*args):
        raise redis.exceptions.ConnectionError(f"cannot say AUTH {WRONG}")

    monkeypatch.setattr(redis.Connection, "_connect", refuse)
    url = f"redis://:{WRONG}@127.0.0.1:1"
    text = said(RedisStorage(QueueSettings(type="redis", url=url)))
    assert "cannot say AUTH ***" in text
    assert "s3cret" not in text


def test_the_key_password_goes_to_postgresql():
    """For a url that has none: a secret from a file. It is masked in errors, too."""
    url = "postgresql://jane@127.0.0.1:1/postgres"
    settings = QueueSettings(type="sql", url=url, password=f"a/{WRONG}")
    engine = dialect_of(settings).engine(1, 0)
    assert (engine.url.username, engine.url.password) == ("jane", f"a/{WRONG}")
    assert masked(f"no a/{WRONG} here") == "no *** here"
