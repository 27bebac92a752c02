"""zope.conf under Zope's own WSGI schema: what it accepts, and for whom."""

from collective.taskqueue import config
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import sections as module
from importlib import import_module
from importlib import reload
from ZConfig import ConfigurationSyntaxError
from ZConfig.cfgparser import ZConfigParser
from ZConfig.matcher import BaseMatcher
from zopeconf import C112_QUEUE
from zopeconf import C112_SERVER
from zopeconf import OTHER_SECRET
from zopeconf import OUR_QUEUE
from zopeconf import OUR_SERVER
from zopeconf import SECRET
from zopeconf import split
from zopeconf import values_of
import pytest
import sys


OTHER_ADDON = """\
<component prefix="{package}">
  <sectiontype name="other-addon" implements="zope.product.base" datatype=".Other">
    <key name="colour" default="red" />
  </sectiontype>
  <sectiontype name="plain-addon" implements="zope.product.base">
    <key name="colour" default="red" />
  </sectiontype>
</component>
"""


@pytest.fixture(scope="module")
def other_addon(tmp_path_factory):
    """Another add-on, which extends zope.conf at the same place."""
    package = "taskqueue_other_addon"
    tmp_path = tmp_path_factory.mktemp(package)
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(
        "class Other:\n"
        "    def __init__(self, section):\n"
        "        self.section = section\n"
        "    def getSectionName(self):\n"
        "        return self.section.getSectionName()\n"
    )
    (tmp_path / package / "component.xml").write_text(OTHER_ADDON.format(package=package))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        yield import_module(package)
    del sys.modules[package]


# what is accepted


def test_the_verbatim_configuration(load, monkeypatch):
    """C110: unnamed, repeated, as in the predecessors' documentation."""
    monkeypatch.setenv("VAR", "/instance/var")
    sections = load(
        """\
<taskqueue />
<taskqueue-server />
<taskqueue>
  queue mailhost
  type redis
  unix_socket_path $(VAR)/redis.sock
</taskqueue>
<taskqueue-server>
  queue mailhost
  name worker1
</taskqueue-server>"""
    )
    queues, servers = split(sections)
    assert set(queues) == {"default", "mailhost"}
    assert set(servers) == {("default", "default"), ("mailhost", "worker1")}
    assert queues["mailhost"].type == "redis"
    assert queues["mailhost"].unix_socket_path == "/instance/var/redis.sock"
    assert queues["default"] == QueueSettings(
        section=queues["default"].section, place=queues["default"].place
    )


def test_empty_sections_have_exactly_these_keys_and_defaults(load):
    """C80, C81, C82, C83, C112."""
    queues, servers = split(load("<taskqueue />\n<taskqueue-server />"))
    (queue,), (server,) = queues.values(), servers.values()
    assert values_of(queue) == {**C112_QUEUE, **OUR_QUEUE}
    assert values_of(server) == {**C112_SERVER, **OUR_SERVER}


def test_every_key_reaches_the_settings(load):
    """C72: with its value converted."""
    given = {
        "queue": "a_B-9.c",
        "type": "my.package.Storage",
        "url": "redis://localhost",
        "host": "example.org",
        "port": 6380,
        "db": "7",
        "password": "s3cret",
        "unix_socket_path": "/run/redis.sock",
        "max_attempts": 5,
        "backoff": "linear",
        "min_backoff": 0.5,
        "max_backoff": 60.0,
        "transient_statuses": (404, 429),
        "timeout": 2.5,
        "once": True,
        "keep_succeeded": 0.0,
        "keep_failed": 60.0,
        "max_finished": 10,
        "max_finished_bytes": 4096,
        "max_waiting_per_person": 0,
        "max_payload": 2048,
        "max_deliveries": 1,
        "stage_timeout": 0.5,
        "secret": f"{SECRET} {OTHER_SECRET}",
        "allow_hosts": "localhost 10.0.0.0/8 [::1]:8000 hooks.example.org:8000",
        "copy_headers": ("x-region", "x-forwarded-*"),
    }
    server_given = {
        "name": "worker.1",
        "queue": "a_B-9.c",
        "concurrent_limit": 0,
        "retry_max_count": 0,
        "lease": 0.5,
        "grace": 0.0,
    }
    text = {**given, "max_payload": "2KB", "transient_statuses": "404  429"}
    text |= {"max_finished_bytes": "4KB", "copy_headers": "X_Region  X-Forwarded-*"}
    lines = "\n".join(f"  {key} {value}" for key, value in text.items())
    more = "\n".join(f"  {key} {value}" for key, value in server_given.items())
    sections = load(
        f"<taskqueue>\n{lines}\n</taskqueue>\n<taskqueue-server>\n{more}\n</taskqueue-server>"
    )
    queues, servers = split(sections)
    assert values_of(queues["a_B-9.c"]) == given
    assert values_of(servers["a_B-9.c", "worker.1"]) == {**server_given, "queues": None}


QUEUES = "<taskqueue>\n queue high\n</taskqueue>\n<taskqueue>\n queue low\n</taskqueue>\n"


def test_several_queues_of_one_consumer(load):
    """In their order, each with the keys of the section."""
    text = "<taskqueue-server>\n queues high low\n concurrent_limit 3\n</taskqueue-server>"
    servers = config.resolve(load(QUEUES + text), {}).servers
    order = ("high", "low")
    assert [(each.queue, each.order, each.concurrent_limit) for each in servers] == [
        ("high", order, 3),
        ("low", order, 3),
    ]
    # The variable starts consumers of single queues.
    (server,) = config.resolve(load(QUEUES + text), {"TASKQUEUE_CONSUMERS": "low"}).servers
    assert (server.queue, server.order, server.concurrent_limit) == ("low", (), 3)


def test_named_sections(load):
    """The name is the section's, not the queue's."""
    sections = load(
        "<taskqueue mail />\n<taskqueue-server mail-server />\n<taskqueue>\n queue b\n</taskqueue>"
    )
    queues, _ = split(sections)
    assert {"mail", "mail-server"} < set(sections)
    assert sections["mail"] is queues["default"]
    assert sections["mail"].getSectionName() == "mail"
    assert sections["mail-server"].getSectionName() == "mail-server"
    assert len(sections) == 3


@pytest.mark.parametrize("name", ["taskqueue-1", "taskqueue-2", "taskqueue-3"])
@pytest.mark.parametrize("kind", ["taskqueue", "product-config"])
def test_no_name_hides_an_unnamed_section(load, name, kind):
    """No name of a section makes another section disappear."""
    named = f"<{kind} {name}>\n queue named\n</{kind}>\n"
    unnamed = "".join(f"<taskqueue>\n queue q{n}\n</taskqueue>\n" for n in range(3))
    for text in (named + unnamed, unnamed + named):
        sections = load(text)
        found = {s.queue for s in sections.values() if isinstance(s, QueueSettings)}
        assert found >= {"q0", "q1", "q2"}
        assert len(sections) == 4


def test_neither_section_is_required(load):
    """C70: an instance that only adds has no server; one without queues has nothing."""
    assert load("") == {}
    queues, servers = split(load("<taskqueue />"))
    assert (len(queues), len(servers)) == (1, 0)


def test_consumers_may_share_a_name_on_different_queues(load):
    """And a queue may have several consumers of different names."""
    sections = load(
        """\
<taskqueue />
<taskqueue>
  queue mail
</taskqueue>
<taskqueue-server />
<taskqueue-server>
  queue mail
</taskqueue-server>
<taskqueue-server>
  queue mail
  name second
</taskqueue-server>"""
    )
    _, servers = split(sections)
    assert len(servers) == 3


def test_a_server_may_come_before_its_queue(load):
    """The file is read as a whole."""
    queues, servers = split(load("<taskqueue-server />\n<taskqueue />"))
    assert (len(queues), len(servers)) == (1, 1)


# everybody else


@pytest.mark.parametrize("kind", ["product-config", "other-addon", "plain-addon"])
def test_unnamed_sections_of_others_are_still_refused(load, other_addon, kind):
    """Only ours are given a name."""
    imports = f"%import {other_addon.__name__}\n%import collective.taskqueue"
    with pytest.raises(ConfigurationSyntaxError, match=r"None is not an allowed name"):
        load(f"<taskqueue />\n<{kind}>\n</{kind}>", imports)


def test_sections_of_others_are_what_they_were(load, other_addon):
    """Next to ours, before and after them."""
    addon = other_addon.__name__
    foreign = (
        "<product-config first>\n a b\n</product-config>\n"
        "<other-addon second>\n colour blue\n</other-addon>\n"
        "<plain-addon third />\n"
    )
    alone = load(foreign, f"%import {addon}\n")
    ours = "<taskqueue />\n<taskqueue-server />\n"
    both = load(ours + foreign + "<taskqueue>\n queue b\n</taskqueue>", IMPORT_BOTH.format(addon))
    assert len(both) == len(alone) + 3
    for sections in (alone, both):
        assert sections["first"] == {"a": "b"}
        assert type(sections["second"]) is other_addon.Other
        assert sections["second"].section.colour == "blue"
        assert sections["third"].colour == "red"
    for name in ("second", "third"):
        kinds = [
            type(getattr(sections[name], "section", sections[name]).getSectionMatcher())
            for sections in (alone, both)
        ]
        assert kinds[0] is kinds[1]


IMPORT_BOTH = "%import {}\n%import collective.taskqueue"


def test_the_parser_is_wrapped_once():
    """However often the module is imported."""
    methods = (
        (BaseMatcher, "createChildMatcher"),
        (ZConfigParser, "handle_key_value"),
        (ZConfigParser, "start_section"),
    )
    wrapped = [getattr(*method) for method in methods]
    assert all(hasattr(method, "of_taskqueue") for method in wrapped)
    fresh = dict(vars(module))
    try:
        reload(module)
        assert [getattr(*method) for method in methods] == wrapped
    finally:
        vars(module).update(fresh)
