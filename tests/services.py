"""Servers that the tests start as private processes, each in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from ports import free_port
from ports import LOOPBACK
from subprocess import Popen
from typing import Self
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time


#: Servers start in a moment; this is for a busy machine.
START_TIMEOUT = 30.0


class Server:
    """A process of ours that others connect to, and its folder."""

    folder: Path
    process: Popen[bytes] | None = None
    #: What ends it without waiting for its clients.
    end = signal.SIGTERM
    _command: list[str]
    #: Owner process it is, if not ours.
    _user: str | None = None

    def start(self) -> Self:
        """Start the process and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = Popen(self._command, stdout=log, stderr=log, user=self._user, cwd="/")
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"{self._command[0]} does not start, see {self.folder}")
            time.sleep(0.01)
        return self

    def stop(self, number: int | None = None) -> None:
        """End the process by a signal, and wait for it."""
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            process.send_signal(number or self.end)
            process.wait(START_TIMEOUT)

    def remove(self) -> None:
        """End the process and forget its folder."""
        self.stop()
        shutil.rmtree(self.folder)

    def _answers(self) -> bool:
        raise NotImplementedError

    def _become_other(self) -> None:
        """Some refuse to be root, and their user cannot enter a folder of root's."""
        if os.geteuid() == 0:
            self._user = _other_user()
            shutil.chown(self.folder, self._user)


class RedisServer(Server):
    """A redis-server on a unix socket; `persistent` writes every change to a file.

    With `tcp` on ports of the loopback, too: `port`, and `tls_port` with a certificate that is
    signed by itself, `certificate`. With `clients` only those are let in over TLS that have a
    certificate: `client_certificate` with `client_key`. With `users` these may do everything, by
    name; what comes without a name needs the password of `default`.
    """

    def __init__(
        self,
        folder: Path,
        binary: str = "redis-server",
        persistent: bool = False,
        tcp: bool = False,
        users: dict[str, str] | None = None,
        clients: bool = False,
    ) -> None:
        path = shutil.which(binary)
        if path is None:
            raise RuntimeError(f"{binary} is missing; type: apt-get install {binary}")
        self.folder = folder
        self.socket = str(folder / "redis.sock")
        self._command = [path, "--port", "0", "--unixsocket", self.socket, "--dir", str(folder)]
        self._command += ["--save", "", "--logfile", str(folder / "redis.log")]
        if persistent:
            self._command += ["--appendonly", "yes", "--appendfsync", "always"]
        for user, password in (users or {}).items():
            self._command += ["--user", user, "on", f">{password}", "~*", "&*", "+@all"]
        if tcp:
            self._listen()
        if clients:
            self._know_clients()

    def _know_clients(self) -> None:
        self.client_certificate = self.folder / "client.pem"
        self.client_key = self.folder / "client-key.pem"
        signer = ["-CA", str(self.certificate), "-CAkey", str(self.folder / "key.pem")]
        _certify("client", self.client_certificate, self.client_key, *signer)
        # The last one counts.
        self._command += ["--tls-auth-clients", "yes", "--tls-ca-cert-file", str(self.certificate)]

    def execute(self, command: str) -> None:
        """Execute a command that answers OK."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.socket)
            connection.sendall(f"{command}\r\n".encode())
            answer = connection.recv(100)
        if not answer.startswith(b"+OK"):
            raise RuntimeError(f"{command}: {answer!r}")

    def _listen(self) -> None:
        self.port, self.tls_port = free_port(), free_port()
        self.certificate = self.folder / "certificate.pem"
        key = self.folder / "key.pem"
        _certify("localhost", self.certificate, key, "-addext", f"subjectAltName=IP:{LOOPBACK}")
        options = {
            "bind": LOOPBACK,
            "port": self.port,
            "tls-port": self.tls_port,
            "tls-cert-file": self.certificate,
            "tls-key-file": key,
            "tls-auth-clients": "no",
        }
        for name, value in options.items():
            self._command += [f"--{name}", str(value)]

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(self.socket)
                connection.sendall(b"PING\r\n")
                # With users it wants to know who asks.
                return connection.recv(100).startswith((b"+PONG", b"-NOAUTH"))
            except OSError:
                return False


class RedisReplica(Server):
    """A redis-server on a port of the loopback: a master, or a replica of another one."""

    def __init__(
        self, folder: Path, master: RedisReplica | None = None, password: str = ""
    ) -> None:
        self.folder, self.port = folder, free_port()
        self._command = ["redis-server", "--port", str(self.port), "--bind", LOOPBACK]
        self._command += ["--dir", str(folder), "--save", "", "--logfile", str(folder / "log")]
        # A new replica must not wait for others that may come.
        self._command += ["--repl-diskless-sync-delay", "0"]
        if password:
            self._command += ["--requirepass", password, "--masterauth", password]
        if master is not None:
            self._command += ["--replicaof", LOOPBACK, str(master.port)]

    def _answers(self) -> bool:
        return _ponged(self.port)


class RedisSentinel(Server):
    """A Redis Sentinel that watches a master, with a quorum of one; it acts within a second."""

    SERVICE = "main"

    def __init__(self, folder: Path, master: RedisReplica, password: str = "") -> None:
        self.folder, self.port = folder, free_port()
        lines = [
            f"port {self.port}",
            f"bind {LOOPBACK}",
            f"dir {folder}",
            f"sentinel monitor {self.SERVICE} {LOOPBACK} {master.port} 1",
            f"sentinel down-after-milliseconds {self.SERVICE} 500",
            f"sentinel failover-timeout {self.SERVICE} 5000",
        ]
        if password:
            lines += [f"sentinel auth-pass {self.SERVICE} {password}", f"requirepass {password}"]
        conf = folder / "sentinel.conf"
        conf.write_text("\n".join(lines) + "\n")
        self._command = ["redis-server", str(conf), "--sentinel"]

    def _answers(self) -> bool:
        return _ponged(self.port)


def _certify(name: str, certificate: Path, key: Path, *options: str) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate), *options]
    subprocess.run(command, check=True, capture_output=True)


def _ponged(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), START_TIMEOUT) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


class PostgresServer(Server):
    """A PostgreSQL server on a unix socket, with a folder and databases of its own.

    With `tcp` on a port of the loopback, too. With a `password`, its user `postgres` needs that.
    """

    end = signal.SIGINT

    def __init__(self, durable: bool = False, tcp: bool = False, password: str = "") -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_version)
        path = found[-1] if found else Path(shutil.which("postgres") or "")
        if not path.name:
            raise RuntimeError("postgres is missing; type: apt-get install postgresql")
        self._bin = path.parent
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._become_other()
        data = self.folder / "data"
        self._command = [str(path), "-D", str(data), "-k", str(self.folder)]
        # In a folder of its own, each can have the port that clients look for.
        self.port = 5432
        self._command += ["-c", "max_connections=100"]
        if not durable:
            self._command += ["-c", "fsync=off", "-c", "full_page_writes=off"]
        self._databases = 0
        login = ["-A", "trust"]
        if password:
            (self.folder / "password").write_text(password)
            login = ["-A", "scram-sha-256", f"--pwfile={self.folder / 'password'}"]
        self._run("initdb", "-D", data, *login, "-U", "postgres", "-E", "UTF8", "-N")
        if tcp:
            self.port = free_port()
        self._command += ["-c", f"listen_addresses={LOOPBACK if tcp else ''}", "-p", str(self.port)]

    def url(self, database: str = "postgres") -> str:
        """Return the url of a database."""
        port = "" if self.port == 5432 else f"&port={self.port}"
        return f"postgresql://postgres@/{database}?host={self.folder}{port}"

    def tcp_url(self) -> str:
        """Return the url of a database over the loopback."""
        return f"postgresql://postgres@{LOOPBACK}:{self.port}/postgres"

    def new_database(self) -> str:
        """Make an empty database, and return its url."""
        self._databases += 1
        name = f"test{self._databases}"
        self._run("createdb", "-h", self.folder, "-U", "postgres", name)
        return self.url(name)

    def _answers(self) -> bool:
        ready = [self._bin / "pg_isready", "-q", "-h", self.folder, "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def _run(self, name: str, *options: object) -> None:
        command = [str(self._bin / name), *map(str, options)]
        done = subprocess.run(
            command, user=self._user, cwd="/", capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr}")


class PgBouncer(Server):
    """A PgBouncer in transaction mode on a unix socket, with few connections to its server."""

    PORT = 6432

    def __init__(self, server: PostgresServer, connections: int = 3) -> None:
        # Where a user who is not root does not look.
        path = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
        if path is None:
            raise RuntimeError("pgbouncer is missing; type: apt-get install pgbouncer")
        self.folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        settings = {
            "listen_port": self.PORT,
            "unix_socket_dir": self.folder,
            "auth_type": "trust",
            "auth_file": self.folder / "users",
            "pool_mode": "transaction",
            "default_pool_size": connections,
            "max_client_conn": 100,
            # What the documentation asks for.
            "server_login_retry": 1,
        }
        lines = ["[databases]", f"* = host={server.folder}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        (self.folder / "users").write_text('"postgres" ""\n')
        (self.folder / "ini").write_text("\n".join(lines) + "\n")
        self._become_other()
        self._command = [path, str(self.folder / "ini")]

    def url(self, database: str) -> str:
        """Return the url of a database of its server."""
        return f"postgresql://postgres@/{database}?host={self.folder}&port={self.PORT}"

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self.folder / f".s.PGSQL.{self.PORT}"))
                return True
            except OSError:
                return False


def _version(path: Path) -> float:
    return float(path.parent.parent.name)


def _other_user() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
