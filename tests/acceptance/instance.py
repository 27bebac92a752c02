"""A real WSGI process: waitress and a database, in a folder of its own."""

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from ports import free_port
from urllib.parse import urlencode
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time


HERE = Path(__file__).parent

#: Starting Zope takes about ten seconds on an idle machine; this is for a busy one.
START_TIMEOUT = 180.0

#: Seconds that a test waits at most; only a test that fails waits that long.
WAIT_TIMEOUT = 60.0

#: Exactly what the README tells people to put into zope.conf.
SNIPPET = """\
%import collective.taskqueue
<taskqueue />
<taskqueue-server />
"""

ZOPE_CONF = """\
%define INSTANCE {home}
instancehome $INSTANCE
clienthome $INSTANCE/var
debug-mode off
{storage}
{snippet}
"""

FILE_STORAGE = """\
<zodb_db main>
    mount-point /
    <filestorage>
        path $INSTANCE/var/Data.fs
    </filestorage>
</zodb_db>"""

MEMORY_STORAGE = """\
<zodb_db main>
    mount-point /
    <mappingstorage>
    </mappingstorage>
</zodb_db>"""

ZOPE_INI = """\
[app:main]
use = egg:Zope#main
zope_conf = {home}/etc/zope.conf

[server:main]
use = egg:waitress#main
host = 127.0.0.1
port = {port}
threads = 4

[loggers]
keys = root

[handlers]
keys = file

[formatters]
keys = plain

[logger_root]
level = INFO
handlers = file

[handler_file]
class = FileHandler
args = ({log!r}, "a")
level = INFO
formatter = plain

[formatter_plain]
format = %(asctime)s %(levelname)s [%(name)s:%(process)d] %(message)s
"""

PLONE_ZCML = """\
<configure xmlns="http://namespaces.zope.org/zope"
           xmlns:meta="http://namespaces.zope.org/meta"
           xmlns:five="http://namespaces.zope.org/five">
  <include package="Products.Five" />
  <meta:redefinePermission from="zope2.Public" to="zope.Public" />
  <five:loadProducts file="meta.zcml" />
  <five:loadProducts />
  <five:loadProductsOverrides />
  <securityPolicy component="AccessControl.security.SecurityPolicy" />
  <include package="fixture" file="plone.zcml" />
</configure>
"""

#: Zope without Plone starts in a fraction of the time, for what does not need a site.
ZOPE_ZCML = """\
<configure xmlns="http://namespaces.zope.org/zope"
           xmlns:meta="http://namespaces.zope.org/meta">
  <include package="Products.Five" />
  <meta:redefinePermission from="zope2.Public" to="zope.Public" />
  <include package="Products.GenericSetup" file="meta.zcml" />
  <include package="collective.taskqueue" />
  <securityPolicy component="AccessControl.security.SecurityPolicy" />
  <include package="fixture" />
</configure>
"""


def wait_for(condition: Callable[[], object], what: str, timeout: float = WAIT_TIMEOUT) -> object:
    """Return the first true result of `condition`; an error after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(0.02)


def basic(name: str) -> dict[str, str]:
    """Return the header that authenticates a user of the fixture."""
    credentials = b64encode(f"{name}:secret-{name}".encode()).decode()
    return {"Authorization": f"Basic {credentials}"}


class Instance:
    """A Zope instance; `start` and `stop` its process as often as needed."""

    def __init__(
        self,
        home: Path,
        snippet: str = SNIPPET,
        zcml: str = PLONE_ZCML,
        storage: str = FILE_STORAGE,
        environ: dict[str, str] | None = None,
    ) -> None:
        self.home = home
        self.port = free_port()
        self.process: subprocess.Popen | None = None
        self.log = home / "var" / "instance.log"
        for folder in ("etc", "var"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        (home / "etc" / "zope.conf").write_text(
            ZOPE_CONF.format(home=home, snippet=snippet, storage=storage)
        )
        (home / "etc" / "zope.ini").write_text(
            ZOPE_INI.format(home=home, port=self.port, log=str(self.log))
        )
        (home / "etc" / "site.zcml").write_text(zcml)
        self.environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            "FIXTURE_FOLDER": str(home / "var"),
            "PYTHONWARNINGS": "ignore",
            **(environ or {}),
        }

    def copy(self, home: Path, snippet: str, environ: dict[str, str] | None = None) -> "Instance":
        """Return another instance with a copy of the database."""
        other = Instance(home, snippet, environ=environ)
        for path in (self.home / "var").glob("Data.fs*"):
            shutil.copy(path, home / "var" / path.name)
        return other

    @property
    def conf(self) -> Path:
        """Path of zope.conf."""
        return self.home / "etc" / "zope.conf"

    # the process

    def script(self, source: str) -> subprocess.CompletedProcess:
        """Run a script under zconsole, with `app`; return what it printed."""
        path = self.home / "var" / "script.py"
        path.write_text(source)
        done = subprocess.run(
            [sys.executable, "-m", "Zope2.utilities.zconsole", "run", self.conf, path],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    def spawn(self, *command: object) -> subprocess.Popen:
        """Start a server, by default runwsgi with waitress, without waiting for it."""
        runwsgi = Path(sys.executable).parent / "runwsgi"
        command = command or (runwsgi, self.home / "etc" / "zope.ini")
        with (self.home / "var" / "console.log").open("ab") as console:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                # A group of its own, so that no child of it can be left behind.
                start_new_session=True,
                preexec_fn=_hear_signals,
            )
        return self.process

    def start(self) -> "Instance":
        """Start the process and wait until it answers."""
        self.spawn()
        self.wait_until_up(self.port)
        return self

    def wait_until_up(self, port: int) -> None:
        """Wait until the server answers at a port; an error if its process ends before."""

        def answers() -> bool:
            assert self.process.poll() is None, self.console()
            try:
                return self.request("GET", "/@@fixture-ping", port=port)[0] == 200
            except OSError:
                return False

        wait_for(answers, "the instance to answer", START_TIMEOUT)

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait until the process has ended, and return its exit code."""
        return self.process.wait(WAIT_TIMEOUT)

    def stop(self) -> int:
        """End the process as a supervisor does, and return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End the process and all its children for sure; for teardown."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(WAIT_TIMEOUT)

    # what it says

    def lines(self, *words: str) -> list[str]:
        """Return the lines of the log that contain all words."""
        text = self.log.read_text() if self.log.exists() else ""
        return [line for line in text.splitlines() if all(word in line for word in words)]

    def console(self) -> str:
        """Return what the process printed."""
        return (self.home / "var" / "console.log").read_text()

    def records(self, **what: object) -> list[dict]:
        """Return what the fixture recorded and has these values, oldest first."""
        path = self.home / "var" / "record.jsonl"
        text = path.read_text() if path.exists() else ""
        # The last line may be on its way into the file.
        found = [json.loads(line) for line in text.split("\n")[:-1]]
        return [item for item in found if item.items() >= what.items()]

    def open(self, name: str) -> None:
        """Let the task at the gate of that name go on."""
        (self.home / "var" / f"open-{name}").touch()

    # requests

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict | None = None,
        port: int | None = None,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Make one HTTP request; return status, headers and body."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", port or self.port, timeout=WAIT_TIMEOUT
        )
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def raw(self, path: str, *lines: str, host: str = "example.org") -> tuple[int, bytes]:
        """GET with header lines that no decent client would send; return status and body."""
        text = "\r\n".join([f"GET {path} HTTP/1.0", f"Host: {host}", *lines, "", ""])
        with socket.create_connection(("127.0.0.1", self.port), WAIT_TIMEOUT) as sock:
            sock.sendall(text.encode("latin-1"))
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def get(self, path: str, headers: dict | None = None, port: int | None = None) -> bytes:
        """Return the body of a page, which has to be there."""
        status, _, body = self.request("GET", path, headers=headers, port=port)
        assert status == 200, (status, body)
        return body

    def add(
        self,
        *calls: dict,
        path: str = "/Plone",
        method: str = "GET",
        body: bytes | None = None,
        headers: dict | None = None,
        port: int | None = None,
        **form: object,
    ) -> dict:
        """Let a view add these tasks; return its answer: their `ids` and its own request."""
        query = self.query({"calls": json.dumps(calls), **form})
        status, _, answer = self.request(
            method, f"{path}/@@fixture-add?{query}", body, headers, port
        )
        assert status == 200, (status, answer)
        return json.loads(answer)

    @staticmethod
    def query(form: dict) -> str:
        """Return a form as a query string."""
        return urlencode(form)

    def status(self, task_id: str, port: int | None = None) -> dict:
        """Return what the process knows about a task."""
        return json.loads(self.get(f"/@@fixture-status?id={task_id}", port=port))

    def counts(self, port: int | None = None) -> dict:
        """Return the number of tasks by queue and state."""
        return json.loads(self.get("/@@fixture-counts", port=port))

    def finished(self, task_id: str, port: int | None = None) -> dict:
        """Wait until a task is finished, and return what is known about it."""

        def status() -> dict | None:
            found = self.status(task_id, port)
            return found if found["finished"] else None

        return wait_for(status, f"task {task_id} to finish")

    def drain(self) -> None:
        """Wait until no task waits or runs."""

        def idle() -> bool:
            return not any(
                queue["queued"] + queue["running"] + queue["scheduled"]
                for queue in self.counts().values()
            )

        wait_for(idle, "all queues to be idle")

    def run(self, *calls: dict, **more: object) -> list[dict]:
        """Add tasks, wait until they have succeeded, and return what they recorded."""
        found = []
        for task_id in self.add(*calls, **more)["ids"]:
            status = self.finished(task_id, more.get("port"))
            assert status["state"] == "succeeded", status
            found += self.records(id=task_id)
        return found


def _hear_signals() -> None:
    """Undo what a shell may have done to the tests: under nohup, SIGHUP is ignored."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTSTP, signal.SIGTTIN):
        signal.signal(number, signal.SIG_DFL)
