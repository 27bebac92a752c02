"""`make demo`: a Plone site that queues and runs tasks before your eyes.

Makes an instance in `.demo` (a second run uses it again), starts it, presses the buttons of
the demo add-on over HTTP, and prints what becomes of each task.
"""

from contextlib import closing
from contextlib import suppress
from http.client import HTTPConnection
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlencode
import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time


ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".demo"
VAR = HOME / "var"
LOG = VAR / "instance.log"
SITE_IS_COMPLETE = VAR / "site-is-complete"

HOST = "127.0.0.1"
USER = "jane"
PASSWORD = "taskqueue"

#: Seconds: a start takes about ten of them, and a busy machine is given more.
START_TIMEOUT = 300.0
TASKS_TIMEOUT = 120.0
#: More than the default of `grace`.
STOP_TIMEOUT = 60.0

ZOPE_CONF = """\
%import collective.taskqueue
%define INSTANCE {home}

instancehome $INSTANCE
clienthome $INSTANCE/var

<zodb_db main>
    mount-point /
    <filestorage>
        path $INSTANCE/var/Data.fs
        blob-dir $INSTANCE/var/blobstorage
    </filestorage>
</zodb_db>

{queue}
<taskqueue-server />
"""

#: Where the tasks are stored, by the value of STORAGE.
QUEUES = {
    "local": "<taskqueue />",
    "sql": """\
<taskqueue>
  type sql
  url sqlite:///$INSTANCE/var/taskqueue.sqlite
</taskqueue>""",
    "redis": """\
<taskqueue>
  type redis
  unix_socket_path $INSTANCE/redis/redis.sock
</taskqueue>""",
}

ZOPE_INI = """\
[app:main]
use = egg:Zope#main
zope_conf = {home}/etc/zope.conf

[server:main]
use = egg:waitress#main
host = {host}
port = {port}

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
formatter = plain

[formatter_plain]
format = %(asctime)s %(levelname)s [%(name)s] %(message)s
"""

SITE_ZCML = """\
<configure
    xmlns="http://namespaces.zope.org/zope"
    xmlns:five="http://namespaces.zope.org/five"
    xmlns:meta="http://namespaces.zope.org/meta"
    >
  <include package="Products.Five" />
  <meta:redefinePermission from="zope2.Public" to="zope.Public" />
  <five:loadProducts file="meta.zcml" />
  <five:loadProducts />
  <five:loadProductsOverrides />
  <securityPolicy component="AccessControl.security.SecurityPolicy" />
</configure>
"""

CREATE_SITE = f"""\
from Products.CMFPlone.factory import addPloneSite
from zope.component.hooks import setSite
import transaction

app.acl_users.userFolderAddUser("admin", "{PASSWORD}", ["Manager"], [])
site = addPloneSite(
    app,
    "Plone",
    title="Task queue",
    extension_ids=[
        "plone.app.contenttypes:default",
        "plonetheme.barceloneta:default",
        "taskqueue_demo:default",
    ],
)
setSite(site)
site.portal_workflow.setDefaultChain("simple_publication_workflow")
roles = ["Member", "Contributor", "Editor", "Reviewer"]
site.acl_users.userFolderAddUser("{USER}", "{PASSWORD}", roles, [])
transaction.commit()
"""

#: What is shown: a sentence, the button, and what the form says.
ACTS = (
    ("Who is a task?", "@@demo-queue-whoami", {}),
    ("A hundred letters, queued in one transaction", "@@demo-queue-letters", {"count": 100}),
    ("A folder tree, each item a task of its own", "@@demo-queue-tree", {}),
    ("Slow work in the background", "@@demo-queue-work", {"seconds": 3}),
)

CODA = """
  In the browser  {site}/@@taskqueue-demo
  Log in as       {user}, password {password}
  Letters sent    {mails}
  The log         {log}
  Read the code   examples/demo/src/taskqueue_demo/letters.py, then publishing.py;
                  src/collective/taskqueue/interfaces.py tells the life of a task
"""


def main():
    """Show everything; the exit code is 0 if every task succeeded."""
    once = "--once" in sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    storage = os.environ.get("STORAGE") or "local"
    if storage not in QUEUES:
        sys.exit(f"STORAGE is one of {', '.join(QUEUES)}, not {storage!r}.")
    port = free_port()
    make_instance(port, storage)
    redis = start_redis() if storage == "redis" else None
    server = None
    succeeded = False
    try:
        make_site()
        server = start()
        site = Site(port)
        wait_until_it_answers(server, site)
        succeeded = show(site)
        print(coda(site), flush=True)
        if not once:
            keep_serving(server, site)
    except KeyboardInterrupt:
        print()
    finally:
        if server is not None:
            stop(server)
        if redis is not None:
            redis.terminate()
            redis.wait(STOP_TIMEOUT)
    return 0 if succeeded else "Not every task succeeded."


def free_port():
    """Return the port to serve on; end the program, in one sentence, if that cannot be done."""
    port = os.environ.get("PORT") or "8080"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        sys.exit(f"PORT is a number up to 65535, not {port!r}.")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, int(port)))
        except OSError as error:
            sys.exit(f"Port {port} cannot be used ({error.strerror}); try: make demo PORT=8090")
    return int(port)


def make_instance(port, storage):
    """Write the configuration of the instance."""
    for folder in (HOME / "etc", HOME / "redis", VAR):
        folder.mkdir(parents=True, exist_ok=True)
    (HOME / "etc" / "zope.conf").write_text(ZOPE_CONF.format(home=HOME, queue=QUEUES[storage]))
    (HOME / "etc" / "zope.ini").write_text(
        ZOPE_INI.format(home=HOME, host=HOST, port=port, log=str(LOG))
    )
    (HOME / "etc" / "site.zcml").write_text(SITE_ZCML)


def start_redis():
    """Start a Redis server of our own on a socket, and return its process."""
    binary = shutil.which("redis-server")
    if binary is None:
        sys.exit("redis-server is missing; type: make services")
    folder = HOME / "redis"
    command = [binary, "--port", "0", "--unixsocket", folder / "redis.sock", "--dir", folder]
    # In a session of its own: after Ctrl-C the server still has tasks to finish.
    return subprocess.Popen(
        [*command, "--appendonly", "yes"], stdout=subprocess.DEVNULL, start_new_session=True
    )


def make_site():
    """Make a Plone site with the demo add-on, unless an earlier run did."""
    if SITE_IS_COMPLETE.exists():
        print("The Plone site of the last run is used again.", flush=True)
        return
    print("Making a Plone site, which takes half a minute ...", flush=True)
    shutil.rmtree(VAR)
    VAR.mkdir()
    script = VAR / "create_site.py"
    script.write_text(CREATE_SITE)
    conf = str(HOME / "etc" / "zope.conf")
    command = [sys.executable, "-m", "Zope2.utilities.zconsole", "run", conf, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT)
    if done.returncode:
        sys.exit(f"The site could not be made:\n{done.stdout}{done.stderr}")
    SITE_IS_COMPLETE.touch()


def start():
    """Start the server and return its process."""
    runwsgi = Path(sys.executable).parent / "runwsgi"
    with (VAR / "console.log").open("ab") as console:
        # In a session of its own, so that Ctrl-C reaches the server only through `stop`.
        return subprocess.Popen(
            [runwsgi, HOME / "etc" / "zope.ini"],
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def stop(server):
    """End the server as an operator would: tasks that run may finish, unless Ctrl-C insists."""
    print("Ending the server ...", flush=True)
    server.terminate()
    try:
        server.wait(STOP_TIMEOUT)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        server.kill()
        server.wait()


def wait_until_it_answers(server, site):
    """Return when the site answers; end the program if it never does."""
    print("Starting it ...", flush=True)
    deadline = time.monotonic() + START_TIMEOUT
    while server.poll() is None and time.monotonic() < deadline:
        try:
            site.tasks()
        except (OSError, HTTPException):
            time.sleep(0.2)
        else:
            return
    sys.exit(f"The server did not start:\n{(VAR / 'console.log').read_text()}")


class Site:
    """The site as a person uses it, over HTTP; remembers which news it has told."""

    def __init__(self, port):
        self.url = f"http://localhost:{port}/Plone"
        credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        self._headers = {"Authorization": f"Basic {credentials}"}
        self._port = port
        self._told = {}

    def call(self, view, fields=None):
        """Call a view, with fields by POST; return the status and the body."""
        connection = HTTPConnection(HOST, self._port, timeout=START_TIMEOUT)
        headers = {**self._headers, "Host": f"localhost:{self._port}"}
        if fields is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = None if fields is None else urlencode(fields)
        with closing(connection):
            connection.request("GET" if body is None else "POST", f"/Plone/{view}", body, headers)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def press(self, button, fields):
        """Submit a form of the demo page; return the seconds until the browser is answered."""
        _, page = self.call("@@taskqueue-demo")
        token = re.search(r'name="_authenticator" value="([^"]+)"', page)[1]
        began = time.perf_counter()
        status, _ = self.call(button, {**fields, "_authenticator": token})
        seconds = time.perf_counter() - began
        if status != 302:
            sys.exit(f"{button} answered with status {status}, see {LOG}")
        return seconds

    def tasks(self):
        """Return what the site says about the tasks of its user."""
        status, body = self.call("@@demo-tasks")
        if status != 200:
            sys.exit(f"@@demo-tasks answered with status {status}, see {LOG}")
        return json.loads(body)["tasks"]

    def tell_news(self):
        """Print the changes of state since the last call; return the tasks.

        A task that waits is told of as soon as it has started.
        """
        tasks = self.tasks()
        for task in tasks:
            told = self._told.get(task["id"], 0)
            changes = [state for state, _ in task["changes"]]
            if len(changes) > max(told, 1):
                self._told[task["id"]] = len(changes)
                line = f"  {task['id']}  {task['description']:<28}  {' > '.join(changes[told:])}"
                print(f"{line}  {task['outcome']}".rstrip(), flush=True)
        return tasks


def show(site):
    """Press every button and follow the tasks; return whether all succeeded."""
    site.tell_news()
    succeeded = True
    for title, button, fields in ACTS:
        known = {task["id"] for task in site.tasks()}
        seconds = site.press(button, fields)
        print(f"\n{title}: the browser had its answer after {seconds:.3f} s.", flush=True)
        states = follow(site, known)
        print(f"  {states.count('succeeded')} of {len(states)} succeeded.", flush=True)
        succeeded = succeeded and set(states) == {"succeeded"}
    return succeeded and not_found_from_outside(site)


def follow(site, known):
    """Print what happens until every new task is finished; return their final states."""
    deadline = time.monotonic() + TASKS_TIMEOUT
    states = {}
    while not states or {"queued", "scheduled", "running"} & set(states.values()):
        if time.monotonic() > deadline:
            sys.exit(f"The tasks were not finished after {TASKS_TIMEOUT:g} s, see {LOG}")
        time.sleep(0.2)
        states |= {
            task["id"]: task["state"] for task in site.tell_news() if task["id"] not in known
        }
    return list(states.values())


def not_found_from_outside(site):
    """Return whether a browser is refused what is for tasks only."""
    status, _ = site.call("@@demo-send-letter?to=reader@example.org")
    print(f"\nThe view that sends a letter, called by a browser: status {status}.", flush=True)
    return status == 404


def coda(site):
    """Return what to open and what to read."""
    mails = (VAR / "mails").relative_to(ROOT)
    log = LOG.relative_to(ROOT)
    return CODA.format(site=site.url, user=USER, password=PASSWORD, mails=mails, log=log)


def keep_serving(server, site):
    """Print what happens to tasks until the process ends."""
    print("The site keeps running. Tasks that you queue appear here; Ctrl-C ends it.", flush=True)
    while server.poll() is None:
        with suppress(OSError, HTTPException):
            site.tell_news()
        time.sleep(0.5)
    sys.exit(f"The server ended, see {VAR / 'console.log'}")


if __name__ == "__main__":
    sys.exit(main())
