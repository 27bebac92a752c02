"""A Plone site with one local queue in this process, in a FileStorage."""

from AccessControl.SecurityManagement import newSecurityManager
from AccessControl.SecurityManagement import noSecurityManager
from AccessControl.users import system
from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.interfaces import IRemoteStorage
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.publisher.request import publish
from collective.taskqueue.publisher.slot import Slots
from collective.taskqueue.queue import TaskQueue
from contextlib import contextmanager
from pathlib import Path
from Testing.makerequest import makerequest
from urllib.parse import quote
from zope.component import getUtility
from zope.component.hooks import setSite
import logging
import transaction
import Zope2
import Zope2.Startup.run


ZOPE_CONF = """\
%import collective.taskqueue
instancehome {home}
clienthome {home}
debug-mode off
<zodb_db main>
    mount-point /
    <filestorage>
        path {home}/Data.fs
    </filestorage>
</zodb_db>
<taskqueue />
"""

SITE_ZCML = """\
<configure xmlns="http://namespaces.zope.org/zope"
           xmlns:meta="http://namespaces.zope.org/meta"
           xmlns:five="http://namespaces.zope.org/five">
  <include package="Products.Five" />
  <meta:redefinePermission from="zope2.Public" to="zope.Public" />
  <five:loadProducts file="meta.zcml" />
  <five:loadProducts />
  <five:loadProductsOverrides />
  <securityPolicy component="AccessControl.security.SecurityPolicy" />
  <include package="benchmarks" />
</configure>
"""


@contextmanager
def plone_site(home: Path) -> Iterator[TaskQueue]:
    """Make the site `/Plone` with the member `jane`; yield its queue.

    What is logged goes to a file, as on any server.
    """
    logging.basicConfig(filename=home / "instance.log", level=logging.INFO)
    (home / "etc").mkdir()
    (home / "etc" / "site.zcml").write_text(SITE_ZCML)
    conf = home / "etc" / "zope.conf"
    conf.write_text(ZOPE_CONF.format(home=home))
    Zope2.Startup.run.configure_wsgi(str(conf))
    app = makerequest(Zope2.app())
    _create_site(app)
    app._p_jar.close()
    try:
        yield getUtility(ITaskQueue, name="default")
    finally:
        Zope2.DB.close()


def make_consumer(
    queue: TaskQueue,
    told: Callable[[str], None] = lambda state: None,
    slots: bool = True,
    limit: int = 1,
) -> Consumer:
    """Return what `<taskqueue-server />` starts; not started.

    `told` is called with each state that a task enters. Without `slots`, a task whose commit was
    not reported may run twice. `limit` tasks run at the same time.
    """

    def notify(state: str, task_id: str) -> None:
        queue.publish_event(state, task_id)
        told(state)

    settings = ServerSettings(queue=queue.name, concurrent_limit=limit)
    consumer = Consumer(queue.storage, publish, settings, notify)
    if slots and IRemoteStorage.providedBy(queue.storage):
        consumer.use_slots(Slots(Zope2.DB), queue.settings.max_deliveries)
    return consumer


@contextmanager
def logged_in(name: str) -> Iterator[str]:
    """Let what the block queues be queued by a member; yield the cookie of a session."""
    app = makerequest(Zope2.app())
    folder = app.Plone.acl_users
    setSite(app.Plone)
    folder.session._setupSession(name, app.REQUEST.RESPONSE)
    cookie = app.REQUEST.RESPONSE.cookies["__ac"]["value"]
    newSecurityManager(None, folder.getUserById(name))
    try:
        yield f"__ac={quote(cookie)}"
    finally:
        noSecurityManager()
        setSite(None)
        app._p_jar.close()


def _create_site(app: object) -> None:
    # Products are importable only once Zope has started.
    from plone.dexterity.utils import createContentInContainer
    from Products.CMFPlone.factory import addPloneSite

    site = addPloneSite(app, "Plone", setup_content=False, default_language="en")
    setSite(site)
    site.acl_users.userFolderAddUser("jane", "secret-of-jane", ["Member"], [])
    for profile in ("plone.app.contenttypes:default", "collective.taskqueue.pasplugin:default"):
        site.portal_setup.runAllImportStepsFromProfile(profile)
    newSecurityManager(None, system)
    for name in ("bench", *(f"page-{number}" for number in range(19))):
        createContentInContainer(site, "Document", checkConstraints=False, id=name, title=name)
    transaction.commit()
    noSecurityManager()
    setSite(None)
