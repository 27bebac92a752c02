"""A site that comes from collective.taskqueue 1.x, with the plugin that is in its Data.fs."""

from acceptance.instance import basic
from acceptance.instance import SNIPPET
import json
import pytest


#: Stores plugins by the paths that their classes had, as the versions of then have done: the
#: module is there while this script runs, and never again. The site and the root have one each.
WRITE = """\
from Products.PluggableAuthService.interfaces.plugins import IAuthenticationPlugin
from Products.PluggableAuthService.interfaces.plugins import IExtractionPlugin
from Products.PluggableAuthService.plugins.BasePlugin import BasePlugin
from types import ModuleType
from zope.interface import implementer
import sys
import transaction

module = ModuleType("collective.taskqueue.pasplugin.MODULE")
sys.modules[module.__name__] = module

@implementer(IExtractionPlugin, IAuthenticationPlugin)
class TaskQueueAuthPlugin(BasePlugin):
    __module__ = module.__name__
    meta_type = "Task Queue Auth Plugin"

module.TaskQueueAuthPlugin = TaskQueueAuthPlugin
for folder in (app.Plone.acl_users, app.acl_users):
    if "taskauth" in folder.objectIds():
        folder._delObject("taskauth")
    plugin = TaskQueueAuthPlugin()
    plugin._setId("taskauth")
    plugin.title = "Task Queue PAS plugin"
    folder._setObject("taskauth", plugin)
    for interface in (IExtractionPlugin, IAuthenticationPlugin):
        folder.plugins.activatePlugin(interface, "taskauth")
app.Plone.portal_setup.setLastVersionForProfile(
    "collective.taskqueue.pasplugin:default", "1000"
)
transaction.commit()
"""

#: Prints what the folders of the site and of the root have then.
READ = """\
from Acquisition import aq_base
from Products.PluggableAuthService.interfaces.plugins import IAuthenticationPlugin
from Products.PluggableAuthService.interfaces.plugins import IExtractionPlugin
from zope.component.hooks import setSite
import json
import transaction

setSite(app.Plone)
setup = app.Plone.portal_setup
ACT
transaction.commit()
found = []
for folder in (app.Plone.acl_users, app.acl_users):
    plugin = aq_base(folder._getOb("taskauth", None))
    found.append([
        f"{type(plugin).__module__}.{type(plugin).__name__}",
        *(
            folder.plugins.listPluginIds(interface).index("taskauth")
            if "taskauth" in folder.plugins.listPluginIds(interface) else None
            for interface in (IExtractionPlugin, IAuthenticationPlugin)
        ),
    ])
print(json.dumps(found))
"""

UPGRADE = "setup.upgradeProfile('collective.taskqueue.pasplugin:default')"
INSTALL = "setup.runAllImportStepsFromProfile('profile-collective.taskqueue.pasplugin:default')"
UNINSTALL = "setup.runAllImportStepsFromProfile('profile-collective.taskqueue.pasplugin:uninstall')"

IN_PLACE = ["collective.taskqueue.pasplugin.plugin.TaskQueueAuthPlugin", 0, 0]
GONE = ["builtins.NoneType", None, None]


def after(instance, act):
    """What the folders have in another process, once it has done this."""
    return json.loads(instance.script(READ.replace("ACT", act)).stdout.splitlines()[-1])


@pytest.fixture
def old(template, tmp_path):
    """Make an instance whose Data.fs has plugins of a class in this module."""
    made = []

    def make(module):
        instance = template.copy(tmp_path, SNIPPET)
        made.append(instance)
        instance.script(WRITE.replace("MODULE", module))
        return instance

    yield make
    for instance in made:
        instance.kill()


def test_a_database_of_1_x(old):
    """C104: its plugin works as it is, can be upgraded, and uninstalled."""
    instance = old("taskauthplugin")
    instance.start()
    [task_id] = instance.add(
        {"url": "/Plone/@@fixture-record"}, path="/Plone", headers=basic("jane")
    )["ids"]
    status = instance.finished(task_id)
    assert status["state"] == "succeeded"
    assert [seen["user"] for seen in instance.records(id=task_id)] == ["jane"]
    assert "authorization" not in {name.lower() for name, _ in status["headers"]}
    assert instance.lines("Could not import") == []
    instance.stop()
    assert after(instance, UPGRADE) == [IN_PLACE, IN_PLACE]
    # The site `Auth` needs that of the root.
    assert after(instance, UNINSTALL) == [GONE, IN_PLACE]


@pytest.mark.parametrize("act", [UPGRADE, INSTALL])
def test_a_database_with_a_broken_plugin(old, act):
    """C104: a plugin whose class cannot be imported any more is replaced."""
    instance = old("a_module_that_is_gone")
    assert after(instance, act) == [IN_PLACE, IN_PLACE]


def test_a_broken_plugin(old):
    """C104: one line says that tasks have credentials now; it can be uninstalled."""
    instance = old("a_module_that_is_gone")
    instance.start()
    for _ in range(2):
        call = {"url": "/Plone/@@fixture-record"}
        [task_id] = instance.add(call, path="/Plone", headers=basic("jane"))["ids"]
        assert instance.finished(task_id)["state"] == "succeeded"
    [line] = instance.lines("ERROR", "plugin taskauth of /Plone/acl_users: ")
    assert line.endswith("until then tasks carry credentials")
    instance.stop()
    assert after(instance, UNINSTALL)[0] == GONE
