"""Redis over TLS, with a server that lets in only clients with a certificate."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from pathlib import Path
from services import RedisServer
import pytest
import subprocess
import tempfile


@pytest.fixture(scope="module")
def server():
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    users = {"default": "s3cret"}
    server = RedisServer(folder, tcp=True, users=users, clients=True).start()
    yield server
    server.remove()


def settings_of(server, **files):
    files = {"ssl_ca_certs": server.certificate, **files}
    query = "&".join(f"{name}={path}" for name, path in files.items())
    url = f"rediss://:s3cret@127.0.0.1:{server.tls_port}/0?{query}"
    return QueueSettings(type="redis", url=url, place="<taskqueue>")


def test_a_client_with_a_certificate(server):
    """Its certificate and its key are options of the url."""
    files = {"ssl_certfile": server.client_certificate, "ssl_keyfile": server.client_key}
    storage = RedisStorage(settings_of(server, **files))
    try:
        task = add_one(storage)
        lease = take(storage)
        assert lease.task.id == task.id
        assert storage.complete(lease, completed(lease)) == SUCCEEDED
    finally:
        storage.close()


def test_a_client_without_a_certificate(server):
    """The server is unavailable for it: nothing is queued."""
    storage = RedisStorage(settings_of(server))
    try:
        with pytest.raises(StorageUnavailable) as caught:
            storage.stage("batch", [new_task()])
        assert "s3cret" not in str(caught.value)
    finally:
        storage.close()


def test_a_key_with_a_password(server):
    """It is an option, too; the library would ask for it at the terminal."""
    key = server.folder / "locked-key.pem"
    command = ["openssl", "rsa", "-aes256", "-passout", "pass:k3y", "-in", str(server.client_key)]
    subprocess.run([*command, "-out", str(key)], check=True, capture_output=True)
    files = {"ssl_certfile": server.client_certificate, "ssl_keyfile": key}
    storage = RedisStorage(settings_of(server, **files, ssl_password="k3y"))
    try:
        add_one(storage)
        take(storage)
    finally:
        storage.close()
    with pytest.raises(ConfigurationError, match="the files of ssl_certfile, ssl_keyfile, ssl_ca_"):
        RedisStorage(settings_of(server, **files, ssl_password="wrong"))
    with pytest.raises(ConfigurationError, match="the files of ssl_certfile, ssl_keyfile, ssl_ca_"):
        RedisStorage(settings_of(server, **files))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"ssl_certfile": "/nowhere/c.pem"}, "the files of ssl_certfile, ssl_ca_certs in its url"),
        ({"ssl_ca_certs": "/nowhere/ca.pem"}, "the files of ssl_ca_certs in its url cannot be us"),
        ({"ssl_certfile": "client.pem"}, "ssl_certfile in its url is not the absolute path of a"),
        ({"ssl_keyfile": "/key.pem"}, "its url has ssl_keyfile, but no ssl_certfile"),
    ],
)
def test_files_that_cannot_be_used(server, files, reason):
    """They are refused at the start, and not taken for a server that is unavailable."""
    with pytest.raises(ConfigurationError) as caught:
        RedisStorage(settings_of(server, **files))
    assert str(caught.value).startswith(f"<taskqueue>: {reason}")
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_key_of_another_certificate(server):
    files = {"ssl_certfile": server.client_certificate, "ssl_keyfile": server.folder / "key.pem"}
    with pytest.raises(ConfigurationError, match=r"in its url cannot be used: .*MISMATCH"):
        RedisStorage(settings_of(server, **files))


def test_the_key_password_is_used_with_a_url_that_has_none(server):
    """A secret from a file is no part of a url."""
    for url in (f"unix://{server.socket}", f"redis://127.0.0.1:{server.port}/0"):
        storage = RedisStorage(QueueSettings(type="redis", url=url, password="s3cret"))
        try:
            add_one(storage)
            take(storage)
        finally:
            storage.close()
