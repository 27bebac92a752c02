"""The HTTP interface of a real process: over the wire, with a consumer, to another server."""

from acceptance.instance import basic
from acceptance.instance import wait_for
from acceptance.instance import WAIT_TIMEOUT
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from urllib.parse import quote
import json
import pytest
import threading


SECTIONS = """\
%import collective.taskqueue
<taskqueue>
  allow_hosts 127.0.0.1:{port}
  max_attempts 2
  min_backoff 0
  transient_statuses 418
</taskqueue>
<taskqueue-server>
  concurrent_limit 2
</taskqueue-server>
<taskqueue>
  queue few
  max_waiting_per_person 2
</taskqueue>
"""


#: What is not answered by 200.
STATUSES = {"/broken": 500, "/teapot": 418, "/busy": 429}


class Receiver(ThreadingHTTPServer):
    """Another server; it remembers the calls that it gets, and answers slowly if asked to."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls = []
        self.gate = threading.Event()

    def of(self, path):
        return [call for call in self.calls if call[1] == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """The test looks at the calls."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.calls.append((self.command, self.path, dict(self.headers), body))
        if self.path == "/slow" and self.command == "POST":
            self.server.gate.wait(WAIT_TIMEOUT)
        self.send_response(STATUSES.get(self.path, 200))
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"thanks")

    do_PUT = do_DELETE = do_POST


@pytest.fixture(scope="module")
def receiver():
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()
    thread.join(WAIT_TIMEOUT)


@pytest.fixture(scope="module")
def instance(template, tmp_path_factory, receiver):
    sections = SECTIONS.format(port=receiver.server_port)
    instance = template.copy(tmp_path_factory.mktemp("rest"), sections)
    try:
        yield instance.start()
    finally:
        instance.kill()


@pytest.fixture
def call(instance):
    """Make a request of the interface; return its status and what it says."""

    def call(method, path, body=None, user="editor", **headers):
        if isinstance(body, dict):
            body, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        headers = {"Accept": "application/json", **basic(user), **headers}
        path = path if path.startswith("/") else f"/Plone/{path}"
        status, found, content = instance.request(method, path, body, headers)
        return status, json.loads(content) if content else found

    return call


@pytest.fixture
def url(receiver):
    return f"http://127.0.0.1:{receiver.server_port}"


def test_send_and_receive(call, url):
    """U38, U46, U47: add, wait for the response, remove it."""
    status, task = call("POST", "@tasks", {"url": f"{url}/hook", "payload": {"a": "€"}})
    assert status == 201
    status, response = call("GET", f"@tasks/{task['id']}/response?wait=30")
    assert (status, response["status"], response["body"]) == (200, 200, "thanks")
    assert response["headers"]["Content-Type"] == "text/plain"
    assert call("GET", f"@tasks/{task['id']}")[1]["state"] == "succeeded"
    assert call("DELETE", f"@tasks/{task['id']}/response")[0] == 204
    assert call("DELETE", f"@tasks/{task['id']}/response")[0] == 404


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/octet-stream", bytes(range(256))),
        ("application/x-www-form-urlencoded; charset=latin-1", "a=ä".encode("latin-1")),
        ("application/json; charset=utf-8", '{"a": "€"}'.encode()),
        ("application/x-www-form-urlencoded", b"a:int=foo&:method=x"),
        ("multipart/form-data", b"without a boundary"),
        ("text/xml", b"<order/>"),
    ],
)
def test_the_raw_body_arrives(call, url, receiver, kind, body):
    """N07, N09, N42, T15, U19, U20, U32: byte by byte, with its type and what is passed."""
    headers = {"Content-Type": kind, "Task-Passthrough-FOO": "Bar", "Cookie": "mine=1"}
    status, task = call("POST", f"@tasks?url={url}/raw&method=PUT", body, **headers)
    assert status == 201
    assert call("GET", f"@tasks/{task['id']}/response?wait=30")[0] == 200
    (method, _, received, content) = receiver.of("/raw")[-1]
    assert (method, content) == ("PUT", body)
    assert (received["Content-Type"], received["Foo"]) == (kind, "Bar")
    assert (received["X-Task-Id"], received["X-Task-Attempt"]) == (task["id"], "1")
    assert {"Cookie", "Authorization", "Accept"} & set(received) <= {"Accept"}


def test_a_task_that_is_cancelled_while_it_runs(call, url, receiver):
    """H15, H24: the call is dropped, a DELETE is sent to the same url, and no response is kept."""
    _, task = call("POST", "@tasks", {"url": f"{url}/slow"})
    wait_for(lambda: receiver.of("/slow"), "the call")
    assert call("DELETE", f"@tasks/{task['id']}")[0] == 204
    status, _ = call("GET", f"@tasks/{task['id']}/response?wait=30")
    assert call("GET", f"@tasks/{task['id']}")[1]["state"] == "cancelled"
    assert status == 200
    calls = wait_for(lambda: receiver.of("/slow")[1:], "the DELETE")
    assert [(method, headers["X-Task-Id"]) for method, _, headers, _ in calls] == [
        ("DELETE", task["id"])
    ]


def test_errors(call, url):
    """U30, U37: tried again while attempts are left, then failed."""
    _, task = call("POST", "@tasks", {"url": f"{url}/broken"})
    _, response = call("GET", f"@tasks/{task['id']}/response?wait=30")
    assert (response["state"], response["status"], response["attempts"]) == ("failed", 500, 2)
    assert call("POST", f"@tasks/{task['id']}/run")[0] == 409
    assert call("POST", f"@tasks/{task['id']}/retry")[1]["state"] in ("queued", "running")


@pytest.mark.parametrize(("path", "status", "attempts"), [("teapot", 418, 2), ("busy", 429, 1)])
def test_statuses_of_the_queue(call, url, path, status, attempts):
    """N38, U31: which client errors are tried again is for zope.conf to say."""
    _, task = call("POST", "@tasks", {"url": f"{url}/{path}"})
    _, response = call("GET", f"@tasks/{task['id']}/response?wait=30")
    assert (response["state"], response["status"]) == ("failed", status)
    assert response["attempts"] == attempts


def test_other_people(call, url):
    """U13, U23: neither Anonymous nor another member."""
    _, task = call("POST", "@tasks", {"url": f"{url}/hook"})
    assert call("POST", "@tasks", {"url": url}, user="nobody")[0] == 401
    assert call("GET", f"@tasks/{task['id']}", user="nobody")[0] == 401
    # A permission of plone.restapi that this site gives to Managers only.
    assert call("GET", f"@tasks/{task['id']}", user="jane")[0] in (401, 404)
    assert call("GET", f"/Auth/@tasks/{task['id']}", user="editor")[0] == 404


#: A path with which a page of another site makes this one look as if it was there.
DECEIT = "/VirtualHostBase/https/evil.example.org:443/Plone/VirtualHostRoot/@tasks"


def test_a_page_that_makes_this_site_look_like_its_own(call):
    """CSRF: by a path of virtual hosting; the browser is not deceived by it, nor are we."""
    headers = {"Origin": "https://evil.example.org"}
    for relation, expected in (("cross-site", 403), ("same-origin", 201), (None, 403)):
        more = {} if relation is None else {"Sec-Fetch-Site": relation}
        fields = {"url": "/Plone/view", "queue": "few", "key": f"{relation}"}
        assert call("POST", DECEIT, fields, **headers, **more)[0] == expected
    (task,) = call("GET", "@tasks?queue=few")[1]["items"]
    assert call("DELETE", f"@tasks/{task['id']}")[0] == 204


def test_a_browser_that_tells_no_more_than_the_origin(call, instance):
    """B3: the page is one of the host that the request was sent to, behind a proxy as well."""
    paths = ("@tasks", DECEIT.replace("evil.example.org:443", "www.example.org:443"))
    for path, host in zip(paths, (f"127.0.0.1:{instance.port}", "www.example.org"), strict=True):
        scheme = "http" if path == "@tasks" else "https"
        fields = {"url": "/Plone/view", "queue": "few"}
        for origin, expected in ((host, 201), ("evil.example.org", 403), ("[", 403)):
            headers = {"Origin": f"{scheme}://{origin}", "Host": host}
            status, task = call("POST", path, fields, **headers)
            assert status == expected
            if status == 201:
                assert call("DELETE", f"@tasks/{task['id']}")[0] == 204


@pytest.mark.parametrize("spelling", ["{}/hook", "HTTP{}/hook", " {}/hook"])
def test_a_web_hook_takes_a_permission_of_its_own(call, url, receiver, spelling):
    """C5: the other site has taken it from everybody, its managers included."""
    hook = spelling.format(url.removeprefix("http") if spelling.startswith("HTTP") else url)
    before = len(receiver.calls)
    assert call("POST", "/Auth/@tasks", {"url": hook})[0] == 403
    assert call("POST", f"/Auth/@tasks?url={quote(hook)}", b"x")[0] == 403
    assert call("POST", "/Auth/@tasks", {"url": "/Auth/view", "queue": "few"})[0] == 201
    status, task = call("POST", "@tasks", {"url": hook})
    assert status == 201
    assert call("GET", f"@tasks/{task['id']}?wait=30")[1]["state"] == "succeeded"
    assert len(receiver.calls) == before + 1
    items = call("GET", "/Auth/@tasks?queue=few&state=queued")[1]["items"]
    assert [call("DELETE", f"/Auth/@tasks/{item['id']}")[0] for item in items] == [204]


def test_one_person_cannot_fill_a_queue(call):
    """E4: 429, and when to come again; those that wait are as many as they were."""
    fields = {"url": "/Plone/view", "queue": "few"}
    ids = [call("POST", "@tasks", fields)[1]["id"] for _ in range(2)]
    status, answer = call("POST", "@tasks", fields)
    assert (status, answer["error"]["type"]) == (429, "TooManyRequests")
    assert call("DELETE", f"@tasks/{ids[0]}")[0] == 204
    status, task = call("POST", "@tasks", fields)
    assert status == 201
    assert call("POST", f"@tasks/{ids[0]}/retry")[0] == 429
    for task_id in (ids[1], task["id"]):
        assert call("DELETE", f"@tasks/{task_id}")[0] == 204


def test_tasks_that_ask_for_tasks_hold_no_consumer(call):
    """E4: as many as there are threads ask to wait, and what they wait for could run."""
    _, other = call("POST", "@tasks", {"url": "/Plone", "delay": 3600})
    ids = []
    for path in ("", "/response"):
        fields = {
            "url": f"/Plone/@tasks/{other['id']}{path}?wait=30",
            "headers": {"Accept": "application/json"},
        }
        ids.append(call("POST", "@tasks", fields)[1]["id"])
    for task_id in ids:
        _, response = call("GET", f"@tasks/{task_id}/response?wait=30")
        assert json.loads(response["body"])["id"] == other["id"]
        # What they asked for; a failure takes that long.
        assert response["elapsed"] < 30
    assert call("DELETE", f"@tasks/{other['id']}")[0] == 204


def test_a_query_is_read_or_refused(call):
    """F4: whichever resource it is."""
    for method, path in (("GET", "@tasks"), ("GET", "@taskqueues"), ("POST", "@tasks")):
        status, answer = call(method, f"{path}?colour=red")
        assert (status, answer["error"]["field"]) == (400, "colour")
        assert "known: " in answer["error"]["message"]
    status, answer = call("GET", "@tasks?state=failed,cancelled,failed")
    assert status == 200
    assert {item["state"] for item in answer["items"]} <= {"failed", "cancelled"}


def test_the_site_answers_while_clients_wait(call, url, receiver):
    """D64: however many ask to wait, threads are left for everybody else."""
    receiver.gate.clear()
    _, task = call("POST", "@tasks", {"url": f"{url}/slow"})
    wait_for(lambda: receiver.of("/slow"), "the call")
    with ThreadPoolExecutor(6) as pool:
        path = f"@tasks/{task['id']}/response?wait=30"
        waiting = [pool.submit(call, "GET", path) for _ in range(6)]
        wait_for(lambda: sum(each.done() for each in waiting) == 4, "those that are too many")
        assert call("GET", "@taskqueues/default")[1]["counts"]["running"] >= 1
        assert not all(each.done() for each in waiting)
        receiver.gate.set()
        answers = sorted(each.result()[0] for each in waiting)
    assert answers == [200, 200, 202, 202, 202, 202]


def test_consumers(call):
    """T02: who they are, and that they are well."""
    (consumer,) = call("GET", "@taskqueues/default")[1]["consumers"]
    assert consumer["name"] == "default"
    assert consumer["pid"] > 0


def test_keys_of_clients(call, url):
    """H20, U44: the first is cancelled, the second runs."""
    fields = {"url": f"{url}/keyed", "delay": 60, "key": "k", "on_conflict": "replace"}
    (_, first), (_, second) = call("POST", "@tasks", fields), call("POST", "@tasks", fields)
    assert call("GET", f"@tasks/{first['id']}")[1]["state"] == "cancelled"
    assert call("POST", f"@tasks/{second['id']}/run")[0] == 200
    assert call("GET", f"@tasks/{second['id']}/response?wait=30")[0] == 200
