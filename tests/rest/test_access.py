"""Who may see and do what: closed by default, and no user learns of the tasks of others."""

from AccessControl.Permission import getPermissions
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.services.access import ADD
from collective.taskqueue.services.access import ADD_HOOK
from collective.taskqueue.services.access import MANAGE
from collective.taskqueue.services.access import VIEW
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
from rest.conftest import login
from uuid import uuid4
import pytest
import transaction


HOOK = "https://example.org/hook"
SECRETS = {"url": HOOK, "headers": {"X-Key": "secret-1"}, "payload": "secret-2"}


def fail(queue):
    outcome = Outcome(400, "status 400", error="Traceback: secret-3", body=b"said")
    consumer = Consumer(queue.storage, lambda attempt: outcome, ServerSettings())
    consumer.step()
    consumer.stop()


def put(queue, url="/plone/@@view", folder="/other/acl_users", user="adder"):
    identity = None if user is None else Identity(folder, user)
    task = Task(id=str(uuid4()), queue=queue.name, url=url, user=identity, payload=b"theirs")
    queue.put(task)
    return task.id


REQUESTS = [
    ("GET", "@tasks/{id}"),
    ("DELETE", "@tasks/{id}"),
    ("GET", "@tasks/{id}/response"),
    ("DELETE", "@tasks/{id}/response"),
    ("POST", "@tasks/{id}/retry"),
    ("POST", "@tasks/{id}/run"),
]


def test_only_managers_have_the_permissions(site):
    """Unless a site says otherwise."""
    roles = {name: default for name, _, default in getPermissions()}
    assert [roles[name] for name in (ADD, ADD_HOOK, VIEW, MANAGE)] == [("Manager",)] * 4


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_an_outsider_cannot_tell_unknown_from_forbidden(
    adder, editor, member, anonymous, queue, method, path
):
    """N15, N22, U23: the answers are the same, byte by byte."""
    task_id, unknown = adder.add(**SECRETS), str(uuid4())
    fail(queue)
    for outsider, status in ((editor, 404), (member, 404), (anonymous, 401)):
        answers = []
        for each in (task_id, unknown):
            answer = outsider(method, path.format(id=each))
            assert answer.status == status
            headers = {k: v for k, v in answer.headers.items() if k != "Date"}
            answers.append((headers, answer.body.replace(each.encode(), b"ID")))
        assert answers[0] == answers[1]
    assert queue.status(task_id).state == "failed"


def test_the_owner(adder, queue):
    """May see the task and its response, but not what is inside."""
    task_id = adder.add(**SECRETS)
    fail(queue)
    answers = [adder.get(f"@tasks/{task_id}"), adder.get("@tasks")]
    answers.append(adder.get(f"@tasks/{task_id}/response"))
    for answer in answers:
        assert answer.status == 200
        assert b"secret" not in answer.body
    assert answers[2].json["body"] == "said"
    assert adder.post(f"@tasks/{task_id}/retry").status == 200
    assert adder.post(f"@tasks/{task_id}/run").status == 200
    assert adder.delete(f"@tasks/{task_id}").status == 204


def test_an_owner_who_may_not_add(member, queue):
    """May see and cancel it, but not have it run once more."""
    task_id = put(queue, folder="/plone/acl_users", user="member")
    assert member.get(f"@tasks/{task_id}").status == 200
    assert member.post(f"@tasks/{task_id}/run").error == (403, "Forbidden", None)
    assert member.post(f"@tasks/{task_id}/retry").error == (403, "Forbidden", None)
    assert member.delete(f"@tasks/{task_id}").status == 204


def test_a_viewer(adder, viewer, queue):
    """May see all tasks, but neither what is inside nor the responses, and change none."""
    task_id = adder.add(**SECRETS)
    fail(queue)
    for path in (f"@tasks/{task_id}", "@tasks"):
        answer = viewer.get(path)
        assert answer.status == 200
        assert b"secret" not in answer.body
    for method, path in REQUESTS[1:]:
        assert viewer(method, path.format(id=task_id)).error == (403, "Forbidden", None)


def test_a_manager(adder, manager, queue):
    """May see it all but the values of headers, and steer it all."""
    task_id = adder.add(**SECRETS)
    fail(queue)
    task = manager.get(f"@tasks/{task_id}").json
    assert task["headers"]["X-Key"] == "(hidden)"
    assert task["payload"] == "secret-2"
    assert task["history"][0]["traceback"] == "Traceback: secret-3"
    assert manager.get(f"@tasks/{task_id}/response").json["body"] == "said"
    assert manager.post(f"@tasks/{task_id}/retry").status == 200
    assert manager.delete(f"@tasks/{task_id}").status == 204
    assert manager.delete(f"@tasks/{task_id}").status == 204


def test_a_payload_in_bytes(adder, manager):
    """D65."""
    task_id = adder.add(url=HOOK, payload_base64="/wA=")
    assert manager.get(f"@tasks/{task_id}").json["payload_base64"] == "/wA="


def test_the_payload_of_a_succeeded_task(adder, manager, queue):
    """Is not kept, and none is shown in its place; that of a failed one is for a retry."""
    ids = [adder.add(**SECRETS) for _ in range(2)]
    consumer = Consumer(queue.storage, lambda attempt: Outcome(200), ServerSettings())
    consumer.step()
    consumer.stop()
    fail(queue)
    payloads = [manager.get(f"@tasks/{task_id}").json.get("payload") for task_id in ids]
    assert payloads == [None, "secret-2"]


def test_other_sites(adder, viewer, manager, root, queue):
    """A user id means nothing without its folder, a permission nothing outside of its site."""
    theirs = [
        put(queue),
        put(queue, HOOK),
        put(queue, "/other/@@view", user=None),
        put(queue, HOOK, user=None),
        put(queue, HOOK, "/acl_users", "admin"),
        put(queue, "/plone/../other/@@view", user=None),
        put(queue, "/plonely/@@view", user=None),
    ]
    for task_id in theirs:
        for person in (adder, viewer, manager):
            assert person.get(f"@tasks/{task_id}").status == 404
            assert person.delete(f"@tasks/{task_id}").status == 404
        assert root.get(f"@tasks/{task_id}").json["payload"] == "theirs"
    for person in (adder, viewer, manager):
        for path in ("@tasks", "@tasks?user=adder", "@tasks?state=queued"):
            assert person.get(path).json["items"] == []
    assert len(root.get("@tasks").json["items"]) == len(theirs)
    assert len(root.get("@tasks?user=adder").json["items"]) == 2


def test_tasks_without_a_user(viewer, manager, adder, queue):
    """A task without a user belongs to the site below which it runs."""
    task_id = put(queue, user=None)
    assert viewer.get(f"@tasks/{task_id}").status == 200
    assert manager.delete(f"@tasks/{task_id}").status == 204
    assert adder.get(f"@tasks/{task_id}").status == 404


def test_anonymous_may_be_given_a_permission(anonymous, portal, queue):
    """N21, U14, U18: a site may give it; the task then has no user."""
    portal.manage_permission(ADD, ["Manager", "Anonymous"])
    transaction.commit()
    assert anonymous.post("@tasks", {}).error == (400, "BadRequest", "url")
    answer = anonymous.post("@tasks", {"url": "/plone/@@view"})
    assert (answer.status, answer.json["user"]) == (201, None)
    assert anonymous.get(f"@tasks/{answer.json['id']}").status == 401
    assert anonymous.get("@tasks").status == 401


def test_clients_are_users(portal, manager):
    """N23: whose password was changed, or who is gone, is let in no more; their task is kept."""
    users = portal.acl_users
    users._doAddUser("client", "first-secret", ["Manager"], [])
    transaction.commit()
    client = login("client", "first-secret")
    task_id = client.add(url=HOOK)
    users.source_users.updateUserPassword("client", "other-secret")
    transaction.commit()
    assert client.get(f"@tasks/{task_id}").status == 401
    client = login("client", "other-secret")
    assert client.get(f"@tasks/{task_id}").status == 200
    users._doDelUsers(["client"])
    transaction.commit()
    assert client.get(f"@tasks/{task_id}").status == 401
    assert client.post("@tasks", {"url": HOOK}).status == 401
    assert manager.get(f"@tasks/{task_id}").json["user"] == "client"


def test_only_what_asks_for_json_is_answered(adder):
    """Content negotiation is that of any other service."""
    assert adder.get("@tasks", Accept="text/html").status == 404
    assert adder.get("/plone/++api++/@tasks", Accept="text/html").status == 200


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "BREW"])
@pytest.mark.parametrize("path", ["@tasks", "@taskqueues"])
def test_methods_that_no_service_has(manager, method, path):
    """Zope and plone.rest answer them, here as elsewhere."""
    assert manager(method, path).status == manager(method, "@search").status


def test_a_preflight_is_answered(anonymous):
    """CORS is that of any other service."""
    headers = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    assert anonymous("OPTIONS", "@tasks", **headers).status in (200, 204)


def test_nothing_is_cached(adder):
    """What is true of a task now is not true in a moment."""
    assert adder.get("@tasks").headers["Cache-Control"] == "no-store"


def test_who_gets_the_id_of_a_deleted_user(portal, manager, queue):
    """C2: gets nothing of theirs, neither what waits nor what came of it; managers see it."""
    users = portal.acl_users
    users._doAddUser("client", "secret-client", ["Adder"], [])
    transaction.commit()
    client = login("client")
    done, waiting = client.add(**SECRETS), client.add(url="/plone/@@view", key="k")
    fail(queue)
    assert manager.delete("@users/client").status == 204
    users._doAddUser("client", "secret-client", ["Adder"], [])
    transaction.commit()
    for method, path in REQUESTS:
        for task_id in (done, waiting):
            assert client(method, path.format(id=task_id)).status == 404
    again = client.add(url="/plone/@@view", key="k")
    assert queue.status(again).id == again
    for path in ("@tasks", "@tasks?user=client"):
        assert [item["id"] for item in client.get(path).json["items"]] == [again]
    assert len(manager.get("@tasks?user=client").json["items"]) == 3
    assert manager.get(f"@tasks/{done}/response").json["body"] == "said"


@pytest.mark.parametrize("spelling", ["../..", "%2e%2e/%2e%2e", "%2E%2e/.."])
def test_a_task_that_climbs_out_of_the_site_is_not_the_sites(viewer, queue, spelling):
    """However its way out is spelled: who may see tasks of the site does not see it."""
    put(queue, "/plone/news", user=None)
    assert len(viewer.get("@tasks").json["items"]) == 1
    put(queue, f"/plone/news/{spelling}/other", user=None)
    assert len(viewer.get("@tasks").json["items"]) == 1


def test_the_query_of_a_url(adder, viewer, manager):
    """May have a token in it: for its owner and for those who may steer the task."""
    task_id = adder.add(url="/plone/@@view", params={"token": "secret"})
    for person, url in (
        (adder, "/plone/@@view?token=secret"),
        (manager, "/plone/@@view?token=secret"),
        (viewer, "/plone/@@view"),
    ):
        assert person.get(f"@tasks/{task_id}").json["url"] == url
        assert person.get("@tasks").json["items"][0]["url"] == url


def test_what_runs_in_other_sites(adder, viewer, manager, root, queue):
    """Their ids are not told: a consumer runs no more than one may see."""
    theirs, own = put(queue), adder.add(url="/plone/@@view")
    assert len(queue.storage.reserve("worker1", 2, timeout=0)) == 2
    for person, ids in ((viewer, [own]), (manager, [own]), (root, [own, theirs])):
        (consumer,) = person.get("@taskqueues/default").json["consumers"]
        assert sorted(each["id"] for each in consumer["running"]) == sorted(ids)


def test_what_runs_and_ends_meanwhile(viewer, adder, queue, monkeypatch):
    """A task that is forgotten between two questions is none that runs."""
    adder.add(url="/plone/@@view")
    queue.storage.reserve("worker1", timeout=0)
    found = queue.storage.admin.consumers()
    monkeypatch.setattr(queue.storage.admin, "consumers", lambda: found)

    def forgotten(task_id, brief):
        raise UnknownTask(task_id)

    monkeypatch.setattr(queue.storage.admin, "get", forgotten)
    (consumer,) = viewer.get("@taskqueues/default").json["consumers"]
    assert consumer["running"] == []
