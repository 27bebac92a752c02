"""Instances: one site, made once; one process for all tests that leave it running."""

from acceptance.instance import Instance
from acceptance.instance import SNIPPET
from acceptance.instance import ZOPE_ZCML
from acceptance.life import Life
from acceptance.life import LIFE_QUEUES
from acceptance.workers import PASSWORD
from acceptance.workers import Worker
from acceptance.workers import ZEO
from crash.databases import ZEOServer
from pathlib import Path
from services import RedisServer
import pytest
import shutil
import tempfile


#: Made once; every instance with a site starts from a copy of it. The site `Auth` has the
#: profile of the PAS plugin applied, the site `Plone` has not.
CREATE_SITES = """\
from fixture.mail import RecordingMailHost
from plone import api
from Products.CMFPlone.factory import addPloneSite
from Products.MailHost.interfaces import IMailHost
from zope.component import getSiteManager
from zope.component.hooks import setSite
import transaction

app.acl_users.userFolderAddUser("root", "secret-root", ["Manager"], [])

def add_site(name, profiles):
    site = addPloneSite(app, name, setup_content=False, extension_ids=profiles)
    setSite(site)
    for user, role in (("jane", "Member"), ("editor", "Manager"), ("leaver", "Member")):
        site.acl_users.userFolderAddUser(user, f"secret-{user}", [role], [])
    return site

other = add_site("Auth", ["collective.taskqueue.pasplugin:default"])
other.manage_permission("collective.taskqueue: Add web hook", [])
transaction.commit()

site = add_site("Plone", ["plone.app.contenttypes:default", "plonetheme.barceloneta:default"])
site.portal_workflow.setDefaultChain("simple_publication_workflow")
site.invokeFactory("Document", "report", title="The report")
api.portal.set_registry_record("plone.available_languages", ["en", "fi"])
for name in ("request", "cookie"):
    api.portal.set_registry_record(f"plone.use_{name}_negotiation", True)
site._delObject("MailHost")
site._setObject("MailHost", RecordingMailHost("MailHost"))
getSiteManager(site).unregisterUtility(provided=IMailHost)
getSiteManager(site).registerUtility(site.MailHost, IMailHost)
transaction.commit()
"""

#: The predecessor's sections verbatim, several queues, and sections with names.
QUEUES = """\
%import collective.taskqueue
<taskqueue />
<taskqueue-server />
<taskqueue>
  queue mailhost
</taskqueue>
<taskqueue-server>
  queue mailhost
  name worker1
</taskqueue-server>
<taskqueue one>
  queue one
</taskqueue>
<taskqueue-server one-consumer>
  queue one
</taskqueue-server>
<taskqueue three>
  queue three
</taskqueue>
<taskqueue-server>
  queue three
  concurrent_limit 3
</taskqueue-server>
<taskqueue>
  queue unlimited
</taskqueue>
<taskqueue-server>
  queue unlimited
  concurrent_limit 0
</taskqueue-server>
<taskqueue>
  queue custom
  type fixture.storage.RecordingStorage
  host storage.example.org
  port 1234
  db 7
  password s3cret
  unix_socket_path /nowhere.sock
  url fixture://somewhere
</taskqueue>
<taskqueue-server>
  queue custom
  name worker2
  retry_max_count 2
</taskqueue-server>
"""


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A stopped instance with two Plone sites."""
    instance = Instance(tmp_path_factory.mktemp("template"))
    instance.script(CREATE_SITES)
    return instance


@pytest.fixture(scope="session")
def plone(template, tmp_path_factory):
    """A running instance with Plone sites, for tests that leave it running."""
    instance = template.copy(tmp_path_factory.mktemp("plone"), QUEUES)
    try:
        yield instance.start()
    finally:
        instance.kill()


@pytest.fixture(scope="session")
def life(template, tmp_path_factory):
    """The public API of a running instance, for tests that leave it running."""
    instance = template.copy(tmp_path_factory.mktemp("life"), LIFE_QUEUES)
    try:
        yield Life(instance.start())
    finally:
        instance.kill()


@pytest.fixture
def door(life, request):
    """A name for a gate; the tasks that wait at it go on when the test ends."""
    yield request.node.name
    life.instance.open(request.node.name)


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """A running instance of bare Zope with exactly the predecessor's sections, a user folder
    that is not pluggable, and a task that was queued before the process was ready."""
    home = tmp_path_factory.mktemp("bare")
    instance = Instance(home, SNIPPET, ZOPE_ZCML, environ={"FIXTURE_EARLY": "1"})
    (home / "inituser").write_text("root:secret-root")
    try:
        yield instance.start()
    finally:
        instance.kill()


@pytest.fixture
def zope(tmp_path):
    """Make instances of bare Zope, for tests that stop them or need no site."""
    made = []

    def make(snippet, **more):
        instance = Instance(tmp_path / f"zope-{len(made)}", snippet, ZOPE_ZCML, **more)
        made.append(instance)
        return instance

    yield make
    for instance in made:
        instance.kill()


@pytest.fixture
def short():
    """A folder for sockets: their path may have a hundred characters, pytest's has more."""
    folder = Path(tempfile.mkdtemp(prefix="worker-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def redis_of_worker(short):
    """A private Redis server."""
    server = RedisServer(short).start()
    yield server
    server.stop()


@pytest.fixture
def worker(tmp_path, redis_of_worker):
    """A worker that is not started yet."""
    made = Worker(tmp_path, redis_of_worker)
    yield made
    made.kill()


@pytest.fixture
def deployed(tmp_path, short):
    """A worker for the examples of deployments, not started yet: a database on a ZEO server, a
    Redis that wants a password, and a zope.conf without a word of queues."""
    redis = RedisServer(short, users={"default": PASSWORD}).start()
    zeo = ZEOServer(short).start()
    storage = ZEO.format(address=zeo.address)
    made = Worker(tmp_path, redis, storage, snippet="", password=PASSWORD)
    # Two processes that make the root of an empty database would be in conflict.
    made.instance.script("pass")
    yield made
    made.kill()
    zeo.stop()
    redis.stop()
