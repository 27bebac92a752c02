"""A database that comes from collective.taskqueue 1.x, and one in which a plugin is broken."""

from Acquisition import aq_base
from collective.taskqueue.pasplugin.plugin import INTERFACES
from collective.taskqueue.pasplugin.plugin import is_active
from collective.taskqueue.pasplugin.plugin import TaskQueueAuthPlugin
from collective.taskqueue.testing import run_tasks
from integration.pasplugin.conftest import DEFAULT
from integration.pasplugin.conftest import MEMBER
from integration.pasplugin.conftest import UNINSTALL
from OFS.SimpleItem import SimpleItem
from plone.app.testing import applyProfile
from plone.app.testing import TEST_USER_ID
from Products.PluggableAuthService.plugins.BasePlugin import BasePlugin
from types import ModuleType
from ZODB.broken import Broken
from ZODB.utils import get_pickle_metadata
from zope.interface import implementer
import pytest
import sys
import transaction


OLD = "collective.taskqueue.pasplugin.taskauthplugin.TaskQueueAuthPlugin"
PRESENT = "collective.taskqueue.pasplugin.plugin.TaskQueueAuthPlugin"

#: Paths of classes that cannot be imported: of a fork, and of a module that is gone.
GONE = (
    "collective.taskqueue.pasplugin.gone.TaskQueueAuthPlugin",
    "collective.taskqueue.pasplugin.taskauthplugin.OlderPlugin",
    "fork_of_it.TaskQueueAuthPlugin",
)


@pytest.fixture
def stored(portal):
    """Return a function that stores a plugin as 1.x did, by the path of its class then."""

    def store(folder, path, name="taskauth", meta_type=TaskQueueAuthPlugin.meta_type):
        module, _, class_name = path.rpartition(".")
        body = {"__module__": module, "meta_type": meta_type}
        factory = implementer(*INTERFACES)(type(class_name, (BasePlugin,), body))
        plugin = factory()
        plugin._setId(name)
        plugin.title = None
        with pytest.MonkeyPatch.context() as patch:
            fake = ModuleType(module)
            setattr(fake, class_name, factory)
            patch.setitem(sys.modules, module, fake)
            folder._setObject(name, plugin)
            for interface in INTERFACES:
                folder.plugins.activatePlugin(interface, name)
            transaction.commit()
        # A ghost keeps its class: without it, the object is read anew, by what can be imported.
        portal._p_jar.cacheMinimize()
        del portal._p_jar._cache[plugin._p_oid]
        return plugin._p_oid

    return store


@pytest.fixture
def folder(portal):
    """The user folder of a site without the plugin."""
    applyProfile(portal, UNINSTALL)
    transaction.commit()
    return portal.acl_users


def class_of(portal, oid):
    """The path of the class that the database has for an object."""
    return ".".join(get_pickle_metadata(portal._p_jar.db().storage.load(oid)[0]))


def in_place(folder):
    """The ids of plugins that are active and come first."""
    lists = [folder.plugins.listPluginIds(interface)[:1] for interface in INTERFACES]
    assert lists[0] == lists[1]
    return lists[0]


def test_the_plugin_of_1_x_is_the_present_one(portal, folder, stored, http, adder, who):
    """C104: without an upgrade, too: no password goes into the queue."""
    oid = stored(folder, OLD)
    assert class_of(portal, oid) == OLD
    assert type(aq_base(folder.taskauth)) is TaskQueueAuthPlugin
    assert is_active(folder)
    assert http(adder, HTTP_AUTHORIZATION=MEMBER)[0] == 200
    (run,) = run_tasks()
    assert "authorization" not in {name.lower() for name, _ in run.task.headers}
    assert list(who) == [("/plone/acl_users", TEST_USER_ID)]


def test_upgrade(portal, folder, stored):
    """C104: what 1.x has stored is stored under the present path from then on."""
    oid = stored(folder, OLD)
    setup = portal.portal_setup
    setup.setLastVersionForProfile(DEFAULT, "1000")
    setup.upgradeProfile(DEFAULT)
    transaction.commit()
    assert setup.getLastVersionForProfile(DEFAULT) == ("1001",)
    assert class_of(portal, oid) == PRESENT
    assert not setup.hasPendingUpgrades(DEFAULT)
    for each in (folder, portal.getPhysicalRoot().acl_users):
        assert in_place(each) == ("taskauth",)
        assert is_active(each)


@pytest.mark.parametrize("path", GONE)
@pytest.mark.parametrize("how", ["install", "upgrade"])
def test_a_broken_plugin_is_replaced(portal, folder, stored, path, how):
    """C104."""
    stored(folder, path)
    assert isinstance(aq_base(folder.taskauth), Broken)
    assert not is_active(folder)
    if how == "install":
        applyProfile(portal, DEFAULT)
    else:
        portal.portal_setup.setLastVersionForProfile(DEFAULT, "1000")
        portal.portal_setup.upgradeProfile(DEFAULT)
    transaction.commit()
    assert type(aq_base(folder.taskauth)) is TaskQueueAuthPlugin
    assert in_place(folder) == ("taskauth",)
    assert is_active(folder)


@pytest.mark.parametrize("path", [OLD, *GONE])
def test_uninstall_takes_old_plugins_away(portal, folder, stored, path):
    """C104: and their places in the lists."""
    stored(folder, path)
    stored(folder, path, "another")
    applyProfile(portal, UNINSTALL)
    transaction.commit()
    assert not {"taskauth", "another"} & set(folder.objectIds())
    for interface in INTERFACES:
        assert not {"taskauth", "another"} & set(folder.plugins.listPluginIds(interface))


def test_plugins_of_other_packages_are_left_alone(portal, folder, stored):
    """C104: a broken plugin of another package, and what has our id by chance."""
    stored(folder, "other_package.Plugin", "other", "Another Plugin")
    folder._setObject("taskauth", SimpleItem("taskauth"))
    applyProfile(portal, DEFAULT)
    transaction.commit()
    assert type(aq_base(folder.taskauth)) is SimpleItem
    assert in_place(folder) == ("taskauth-2",)
    assert is_active(folder)
    applyProfile(portal, UNINSTALL)
    assert {"taskauth", "other"} <= set(folder.objectIds())
    assert "taskauth-2" not in folder.objectIds()
    assert not is_active(folder)
