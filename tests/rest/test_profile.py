"""The profile of the package: Site Administrators look after the tasks of their site."""

from collective.taskqueue.pasplugin.plugin import is_active
from collective.taskqueue.services.access import ADD
from collective.taskqueue.services.access import ADD_HOOK
from collective.taskqueue.services.access import MANAGE
from collective.taskqueue.services.access import VIEW
from plone.app.testing import applyProfile
from rest.conftest import login
import pytest
import transaction


DEFAULT = "collective.taskqueue:default"
UNINSTALL = "collective.taskqueue:uninstall"
PLUGIN = "collective.taskqueue.pasplugin"


@pytest.fixture
def administrator(portal):
    roles = ["Member", "Site Administrator"]
    portal.acl_users._doAddUser("administrator", "secret-administrator", roles, [])
    for permission in (VIEW, MANAGE):
        # As in a site that has said nothing yet.
        portal.manage_permission(permission, [], acquire=1)
    transaction.commit()
    return login("administrator")


def apply(portal, profile):
    applyProfile(portal, profile)
    transaction.commit()


def roles_of(portal, permission):
    return {each["name"] for each in portal.rolesOfPermission(permission) if each["selected"]}


def test_site_administrators(portal, administrator, manager, adder, queue):
    """They see and steer the tasks of the site, and Managers as ever."""
    task_id = adder.add(url="/plone/@@view", payload="theirs")
    for path in ("@taskqueues", "@taskqueues/default"):
        assert administrator.get(path).status == 403
    assert administrator.get(f"@tasks/{task_id}").status == 404
    apply(portal, DEFAULT)
    for person in (administrator, manager):
        assert person.get("@taskqueues/default").status == 200
        assert person.get(f"@tasks/{task_id}").json["payload"] == "theirs"
        assert [item["id"] for item in person.get("@tasks").json["items"]] == [task_id]
        assert person.post("@taskqueues/default/pause").status == 204
    assert administrator.delete(f"@tasks/{task_id}").status == 204


def test_no_more_than_that(portal, administrator):
    """To add tasks and web hooks is for the site to allow."""
    before = [roles_of(portal, permission) for permission in (ADD, ADD_HOOK)]
    apply(portal, DEFAULT)
    assert administrator.post("@tasks", {"url": "/plone/@@view"}).status == 403
    assert [roles_of(portal, permission) for permission in (ADD, ADD_HOOK)] == before


def test_what_the_root_allows_is_still_allowed(portal, administrator, root):
    """It is acquired."""
    apply(portal, DEFAULT)
    for permission in (VIEW, MANAGE):
        assert portal.acquiredRolesAreUsedBy(permission) == "CHECKED"
    assert root.get("@taskqueues").status == 200


def test_the_plugin_comes_along(portal):
    """So that tasks run as who queued them; its own profile does without this one."""
    setup = portal.portal_setup
    # As the control panel of add-ons does it.
    applyProfile(portal, f"{PLUGIN}:uninstall")
    setup.unsetLastVersionForProfile(f"{PLUGIN}:default")
    assert not is_active(portal.acl_users)
    apply(portal, DEFAULT)
    assert is_active(portal.acl_users)
    alone = f"profile-{PLUGIN}:default"
    assert setup.getProfileDependencyChain(alone) == [alone]


def test_uninstall(portal, administrator, manager):
    """As often as one likes; the plugin stays, for tasks that wait."""
    for _ in range(2):
        apply(portal, DEFAULT)
        assert administrator.get("@taskqueues").status == 200
        apply(portal, UNINSTALL)
        apply(portal, UNINSTALL)
        assert administrator.get("@taskqueues").status == 403
        assert manager.get("@taskqueues").status == 200
        assert is_active(portal.acl_users)


def test_its_version(portal):
    """What upgrade steps begin with."""
    apply(portal, DEFAULT)
    assert portal.portal_setup.getLastVersionForProfile(f"profile-{DEFAULT}") == ("1000",)
