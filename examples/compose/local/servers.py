"""The servers of docker-compose.yml as private processes: Redis, PostgreSQL, ZEO."""

from composefile import Service
from pathlib import Path
from places import replaced
from ports import free_port
from ports import LOOPBACK
from services import PostgresServer
from services import Server
import socket
import sys


#: Stands for the configuration in the image plone-zeo.
ZEO_CONF = """\
<zeo>
  address {host}:{port}
</zeo>
<filestorage 1>
  path {folder}/Data.fs
  blob-dir {folder}/blobstorage
</filestorage>
"""


class Redis(Server):
    """Redis by the command of docker-compose.yml, with redis.conf and the password."""

    def __init__(self, service: Service, folder: Path, conf: Path, secrets: Path) -> None:
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        private = f"{folder}/redis.conf"
        places = {
            "/etc/redis.conf": str(conf),
            "/run/secrets": str(secrets),
            "redis-server /tmp/redis.conf": f"redis-server {private} --dir {folder}"
            f" --bind {LOOPBACK} --port {self.port}",
            "/tmp/redis.conf": private,
        }
        self._command = [replaced(word, places) for word in service.command]
        self.places = {"redis:6379": f"{LOOPBACK}:{self.port}"}

    def _answers(self) -> bool:
        return _accepts(self.port)


class Postgres(PostgresServer):
    """PostgreSQL, which asks for a password."""

    def __init__(self, secrets: Path) -> None:
        password = (secrets / "postgres-password").read_text(encoding="utf-8")
        super().__init__(tcp=True, password=password)
        self.places = {
            "dbname=plone user=plone host=postgres port=5432": (
                f"dbname=postgres user=postgres host={LOOPBACK} port={self.port}"
            )
        }


class ZEO(Server):
    """A ZEO server with a FileStorage and blobs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        conf = folder / "zeo.conf"
        conf.write_text(ZEO_CONF.format(host=LOOPBACK, port=self.port, folder=folder))
        self._command = [sys.executable, "-m", "ZEO.runzeo", "-C", str(conf)]
        self.places = {"zeo:8100": f"{LOOPBACK}:{self.port}"}

    def _answers(self) -> bool:
        return _accepts(self.port)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), 5).close()
    except OSError:
        return False
    return True
