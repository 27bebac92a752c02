"""How the plugin comes into a user folder, and out of it again."""

from Acquisition import aq_base
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.pasplugin.plugin import INTERFACES
from collective.taskqueue.pasplugin.plugin import is_active
from collective.taskqueue.pasplugin.plugin import TaskQueueAuthPlugin
from collective.taskqueue.testing import task_queue
from integration.pasplugin.conftest import DEFAULT
from integration.pasplugin.conftest import OWNER
from integration.pasplugin.conftest import UNINSTALL
from plone.app.testing import applyProfile
from plone.app.testing import login
from plone.app.testing import SITE_OWNER_NAME
from plone.protect import createToken
from Products.CMFPlone.factory import addPloneSite
from urllib.parse import urlencode
from zope.component import getUtility
from zope.component.hooks import setSite
from zope.schema.interfaces import IVocabularyFactory
import pytest
import transaction


def plugins(folder):
    """Ids of our plugins, and the places they have in the two lists."""
    ids = [item.getId() for item in folder.objectValues() if item.meta_type == META_TYPE]
    active = [folder.plugins.listPluginIds(interface) for interface in INTERFACES]
    return ids, [[line.index(name) for name in ids if name in line] for line in active]


META_TYPE = "Task Queue Auth Plugin"
IN_PLACE = (["taskauth"], [[0], [0]])
GONE = ([], [[], []])


# the profiles


def test_profile_puts_the_plugin_first(app, portal):
    """C104: in the folder of the site and in that of the root."""
    for folder in (portal.acl_users, app.acl_users):
        assert plugins(folder) == IN_PLACE
        assert is_active(folder)
    assert portal.acl_users.taskauth.title == "Task Queue PAS plugin"
    assert portal.acl_users.taskauth.meta_type == META_TYPE


def test_profile_can_be_applied_again(app, portal):
    """C104."""
    before = aq_base(portal.acl_users.taskauth)
    registry = portal.acl_users.plugins
    registry.movePluginsDown(INTERFACES[0], ["taskauth"])
    registry.deactivatePlugin(INTERFACES[1], "taskauth")
    assert not is_active(portal.acl_users)
    for _ in range(2):
        applyProfile(portal, DEFAULT)
        for folder in (portal.acl_users, app.acl_users):
            assert plugins(folder) == IN_PLACE
    assert aq_base(portal.acl_users.taskauth) is before


def test_profile_keeps_a_plugin_of_another_name(portal):
    """C104: one plugin is enough."""
    applyProfile(portal, UNINSTALL)
    portal.acl_users._setObject("mine", TaskQueueAuthPlugin("mine"))
    applyProfile(portal, DEFAULT)
    assert plugins(portal.acl_users) == (["mine"], [[0], [0]])


def test_uninstall(app, portal):
    """C104."""
    for _ in range(2):
        applyProfile(portal, UNINSTALL)
        for folder in (portal.acl_users, app.acl_users):
            assert plugins(folder) == GONE
            assert not is_active(folder)
    applyProfile(portal, DEFAULT)
    assert plugins(portal.acl_users) == plugins(app.acl_users) == IN_PLACE


def test_uninstall_leaves_the_root_to_other_sites(app, portal):
    app.manage_addFolder("customers")
    login(app, SITE_OWNER_NAME)
    other = addPloneSite(app.customers, "other", extension_ids=[DEFAULT])
    assert plugins(other.acl_users) == IN_PLACE
    setSite(portal)
    applyProfile(portal, UNINSTALL)
    assert plugins(portal.acl_users) == GONE
    assert plugins(app.acl_users) == IN_PLACE
    setSite(other)
    other.portal_setup.runAllImportStepsFromProfile(f"profile-{UNINSTALL}")
    assert plugins(app.acl_users) == GONE


# the ZMI


ADD = "/acl_users/manage_addProduct/collective.taskqueue.pasplugin/"


def test_plugin_can_be_added(app):
    """C103."""
    (found,) = [item for item in app.acl_users.all_meta_types() if item["name"] == META_TYPE]
    assert found["permission"] == "Add User Folders"
    assert found["action"].endswith("/manage_addTaskQueueAuthPluginForm")


def test_add_form(http):
    """C103."""
    url = f"{ADD}manage_addTaskQueueAuthPluginForm"
    assert http(url)[0] == 401
    status, _, body = http(url, HTTP_AUTHORIZATION=OWNER)
    assert status == 200
    assert b'value="taskauth"' in body
    assert b'action="manage_addTaskQueueAuthPlugin"' in body


def test_add(app, http):
    """C103."""
    login(app, SITE_OWNER_NAME)
    form = {"id": "mine", "title": "My plugin", "_authenticator": createToken()}
    transaction.commit()
    status, headers, _ = http(
        f"{ADD}manage_addTaskQueueAuthPlugin",
        "POST",
        urlencode(form).encode(),
        CONTENT_TYPE="application/x-www-form-urlencoded",
        HTTP_AUTHORIZATION=OWNER,
    )
    assert status == 302
    assert headers["Location"].endswith("/acl_users/manage_workspace")
    transaction.begin()
    assert app.acl_users.mine.title == "My plugin"
    assert isinstance(aq_base(app.acl_users.mine), TaskQueueAuthPlugin)


@pytest.mark.parametrize("name", ["extractCredentials", "authenticateCredentials"])
def test_plugin_is_not_published(http, name):
    """What it can do is nothing for a browser."""
    assert http(f"/acl_users/taskauth/{name}", HTTP_AUTHORIZATION=OWNER)[0] in (401, 404)


# the vocabulary


def test_vocabulary(functional):
    """C49."""
    with task_queue("mails") as mails:
        vocabulary = getUtility(IVocabularyFactory, "collective.taskqueue.queues")(None)
        assert [(term.token, term.title) for term in vocabulary] == [
            ("default", "default"),
            ("mails", "mails"),
        ]
        assert vocabulary.getTermByToken("mails").value is mails
        assert vocabulary.getTerm(getUtility(ITaskQueue, name="default")).token == "default"
