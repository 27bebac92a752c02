"""zope.conf under Zope's own WSGI schema: what it accepts, what it refuses, and how."""

from collective.taskqueue import config
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import SECTION_TYPES
from collective.taskqueue.config import ServerSettings
from dataclasses import fields
from importlib import import_module
from importlib import reload
from pathlib import Path
from xml.etree import ElementTree
from ZConfig import ConfigurationError
from ZConfig import ConfigurationSyntaxError
from ZConfig.matcher import BaseMatcher
from Zope2.Startup.options import ZopeWSGIOptions
import pytest
import sys


COMPONENT = ElementTree.parse(Path(config.__file__).with_name("component.xml")).getroot()

#: The keys that the predecessor had (C112), with their defaults.
C112_QUEUE = {
    "queue": "default",
    "type": "local",
    "host": "localhost",
    "port": 6379,
    "db": "0",
    "password": "",
    "unix_socket_path": "",
}
C112_SERVER = {
    "name": "default",
    "queue": "default",
    "concurrent_limit": 1,
    "retry_max_count": 10,
}

#: The keys that it had not.
OUR_QUEUE = {
    "url": "",
    "max_attempts": None,
    "backoff": "exponential",
    "min_backoff": 2.0,
    "max_backoff": 7200.0,
    "transient_statuses": (408, 423, 425, 429, 449),
    "timeout": None,
    "keep_succeeded": 3600.0,
    "keep_failed": 604800.0,
    "max_finished": 10_000,
    "max_payload": 1024 * 1024,
    "max_deliveries": 3,
    "stage_timeout": 3.0,
    "secret": "",
    "allow_hosts": "",
}
OUR_SERVER = {"lease": 30.0, "grace": 30.0}

#: Two secrets of web hooks, with keys of 24 bytes.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_" + "b3RoZXIg" * 4

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
def schema():
    """The schema as Zope loads it."""
    options = ZopeWSGIOptions()
    options.load_schema()
    return options.schema


@pytest.fixture
def load(schema, tmp_path):
    """Load a zope.conf whose line 3 is the first of the text; return its product_config."""

    def load(text, imports="%import collective.taskqueue"):
        path = tmp_path / "zope.conf"
        path.write_text(f"instancehome {tmp_path}\n{imports}\n{text}\n")
        options = ZopeWSGIOptions(str(path))
        options.schema = schema
        options.load_configfile()
        return options.configroot.product_config

    return load


@pytest.fixture(scope="module")
def other_addon(tmp_path_factory):
    """A package of somebody else that extends zope.conf at the same place."""
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


def split(sections):
    """The queues by name, and the servers by queue and name."""
    values = list(sections.values())
    queues = {value.queue: value for value in values if isinstance(value, QueueSettings)}
    servers = {
        (value.queue, value.name): value for value in values if isinstance(value, ServerSettings)
    }
    assert len(queues) + len(servers) == len(values)
    return queues, servers


def values_of(settings):
    return {
        field.name: getattr(settings, field.name)
        for field in fields(settings)
        if field.name not in ("section", "place")
    }


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
        "queue": "a_B-9",
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
        "keep_succeeded": 0.0,
        "keep_failed": 60.0,
        "max_finished": 10,
        "max_payload": 2048,
        "max_deliveries": 1,
        "stage_timeout": 0.5,
        "secret": f"{SECRET} {OTHER_SECRET}",
        "allow_hosts": "localhost 10.0.0.0/8 [::1]:8000 hooks.example.org:8000",
    }
    server_given = {
        "name": "worker1",
        "queue": "a_B-9",
        "concurrent_limit": 0,
        "retry_max_count": 0,
        "lease": 0.5,
        "grace": 0.0,
    }
    text = {**given, "max_payload": "2KB", "transient_statuses": "404  429"}
    lines = "\n".join(f"  {key} {value}" for key, value in text.items())
    more = "\n".join(f"  {key} {value}" for key, value in server_given.items())
    sections = load(
        f"<taskqueue>\n{lines}\n</taskqueue>\n<taskqueue-server>\n{more}\n</taskqueue-server>"
    )
    queues, servers = split(sections)
    assert values_of(queues["a_B-9"]) == given
    assert values_of(servers["a_B-9", "worker1"]) == server_given


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
    """Whatever people call their sections, none of the others is lost."""
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


# what is refused

MISTAKES = {
    "two queues of one name": (
        "<taskqueue />\n<taskqueue other>\n</taskqueue>",
        r"<taskqueue other> \(line 4 of .*zope.conf\): .*'default' .*<taskqueue> \(line 3 of .*\)",
    ),
    "a server without its queue": (
        "<taskqueue />\n<taskqueue-server>\n queue mailhost\n</taskqueue-server>",
        r"<taskqueue-server> \(line 4 of .*\): there is no queue 'mailhost' \(known: default\)",
    ),
    "a server without any queue": (
        "\n<taskqueue-server w />",
        r"<taskqueue-server w> \(line 4 of .*\): there is no queue 'default' \(known: none\)",
    ),
    "two consumers of one name": (
        "<taskqueue />\n<taskqueue-server />\n<taskqueue-server />",
        r"<taskqueue-server> \(line 5 .*\): <taskqueue-server> \(line 4 .*\) has the same",
    ),
    "min_backoff over max_backoff": (
        "<taskqueue>\n min_backoff 10\n max_backoff 5\n</taskqueue>",
        r"<taskqueue> \(line 3 of .*\): min_backoff is greater than max_backoff",
    ),
    "an unknown key": ("<taskqueue>\n colour red\n</taskqueue>", r"<taskqueue> \(line 3 .*colour"),
    "a key given twice": (
        "<taskqueue>\n queue a\n queue b\n</taskqueue>",
        r"<taskqueue> \(line 3 .*'queue' does not support multiple values",
    ),
    "a name given twice": (
        "<taskqueue a />\n<taskqueue-server a />",
        r"<taskqueue-server a> \(line 4 of .*\): another section is named 'a'",
    ),
    "a section within": ("<taskqueue>\n <taskqueue />\n</taskqueue>", r"\(line 4 in "),
    "a section not closed": ("<taskqueue>\n queue a", "unclosed"),
    "another section closed": ("<taskqueue>\n</taskqueue-server>", r"\(line 4 in "),
}

BAD_VALUES = {
    "queue": ["", "a.b", "a b", "ä", "a:b", "*", "a" * 101],
    "type": ["", "reddis", "my.", ".Storage", "my package.Storage"],
    "port": ["abc", "-1", "70000", "1.5"],
    "max_attempts": ["0", "-1", "1.5", "many"],
    "backoff": ["", "none", "Linear"],
    "min_backoff": ["-1", "abc", "nan", "inf"],
    "max_backoff": ["-1", "abc", "nan", "inf"],
    "transient_statuses": ["abc", "4xx", "399", "500", "429,503", "-429"],
    "timeout": ["0", "-1", "abc", "nan", "inf"],
    "keep_succeeded": ["-1", "abc", "nan", "inf"],
    "keep_failed": ["-1", "abc", "nan", "inf"],
    "max_finished": ["0", "-1", "abc"],
    "max_payload": ["-1", "abc", "1 apple"],
    "max_deliveries": ["0", "-1", "abc"],
    "stage_timeout": ["0", "-1", "abc", "nan", "inf"],
    "secret": ["s3cret", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%", f"{SECRET} s3cret", SECRET * 3],
    "allow_hosts": [
        "http://localhost",
        "localhost/path",
        "*.example.org",
        "localhost,example.org",
        "10.0.0.0/33",
        "host:port",
        "host:",
        "host:0",
        "host:70000",
        "user@host",
        "[::1",
    ],
}
BAD_SERVER_VALUES = {
    "name": ["", "a.b", "a b"],
    "queue": ["", "a.b"],
    "concurrent_limit": ["-1", "1.5", "abc"],
    "retry_max_count": ["-1", "1.5", "abc"],
    "lease": ["0", "-1", "abc", "nan", "inf"],
    "grace": ["-1", "abc", "nan", "inf"],
}

#: Whose every value means something.
ANY_TEXT = {"url", "host", "db", "password", "unix_socket_path"}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_with_the_line(load, mistake):
    """D27, D31: Zope does not start, and says where to look."""
    text, message = MISTAKES[mistake]
    with pytest.raises(ConfigurationError, match=message):
        load(text)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        *[("taskqueue", key, value) for key, values in BAD_VALUES.items() for value in values],
        *[
            ("taskqueue-server", key, value)
            for key, values in BAD_SERVER_VALUES.items()
            for value in values
        ],
    ],
)
def test_a_bad_value_is_refused_with_section_and_line(load, section, key, value):
    """C113: the line of the section, and the one of the value."""
    text = f"<taskqueue />\n\n<{section}>\n\n  {key} {value}\n</{section}>"
    expected = rf"^<{section}> \(line 5 of .*zope.conf\): .*\(line 7, in .*zope.conf\)"
    with pytest.raises(ConfigurationError, match=expected):
        load(text)


def test_every_key_has_bad_values():
    """A new one must not be forgotten."""
    assert set(BAD_VALUES) | ANY_TEXT == {*C112_QUEUE, *OUR_QUEUE}
    assert set(BAD_SERVER_VALUES) == {*C112_SERVER, *OUR_SERVER}


def test_a_mistake_in_an_included_file_names_that_file(load, tmp_path):
    """Large configurations are several files."""
    (tmp_path / "queues.conf").write_text(
        "\n<taskqueue>\n queue mail\n</taskqueue>\n<taskqueue>\n queue mail\n</taskqueue>\n"
    )
    message = r"\(line 5 of .*queues.conf\): queue 'mail' .* \(line 2 of .*queues.conf\)"
    with pytest.raises(ConfigurationError, match=message):
        load("%include queues.conf")


def test_a_password_is_not_shown(load):
    """Neither in a log nor in a traceback."""
    queues, _ = split(load("<taskqueue>\n password s3cret\n</taskqueue>"))
    assert queues["default"].password == "s3cret"
    assert "s3cret" not in repr(queues["default"])
    url = "postgresql://jane:s3cret@db/plone"
    queues, _ = split(load(f"<taskqueue>\n type sql\n url {url}\n</taskqueue>"))
    assert queues["default"].url == url
    assert "s3cret" not in repr(queues["default"])


def test_a_secret_is_not_shown(load):
    """Neither in a log, nor by the message that refuses it."""
    queues, _ = split(load(f"<taskqueue>\n secret {SECRET}\n</taskqueue>"))
    assert queues["default"].secret == SECRET
    assert SECRET[6:] not in repr(queues["default"])
    with pytest.raises(ConfigurationError) as caught:
        load("<taskqueue>\n secret s3cret\n</taskqueue>")
    assert "s3cret" not in str(caught.value)


def test_sections_made_by_hand_are_checked_too():
    """As tests and other frameworks do, in a list or in a mapping, without a file."""
    for sections in (
        [QueueSettings(), QueueSettings()],
        {"a": QueueSettings(), "b": ServerSettings(queue="mail")},
    ):
        with pytest.raises(ConfigurationError, match=r"^<taskqueue"):
            config.check(sections)
    assert config.check([QueueSettings(), object(), ServerSettings()]) is None


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
    wrapped = BaseMatcher.createChildMatcher
    config._allow_unnamed_sections()
    assert BaseMatcher.createChildMatcher is wrapped
    fresh = dict(vars(config))
    try:
        reload(config)
        assert BaseMatcher.createChildMatcher is wrapped
    finally:
        vars(config).update(fresh)


# component.xml


def keys_of(section):
    (found,) = [item for item in COMPONENT if item.get("name") == section]
    return found.findall("key")


@pytest.mark.parametrize("section", SECTION_TYPES)
def test_everything_is_described(section):
    """The sections and every key: component.xml is what an administrator reads."""
    (found,) = [item for item in COMPONENT if item.get("name") == section]
    for item in (found, *keys_of(section)):
        text = item.findtext("description") or ""
        assert len(text.split()) >= 5
        assert text.strip()[0].isupper()
        assert text.strip().endswith(".")


@pytest.mark.parametrize(
    ("section", "settings"), [("taskqueue", QueueSettings), ("taskqueue-server", ServerSettings)]
)
def test_component_and_settings_have_the_same_keys(section, settings):
    """One is the documentation of the other; their defaults are compared above."""
    assert [item.get("name") for item in COMPONENT] == list(SECTION_TYPES)
    keys = {key.get("name") for key in keys_of(section)}
    assert keys == set(values_of(settings()))
    assert all(key.get("datatype") for key in keys_of(section))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (QueueSettings, {**C112_QUEUE, **OUR_QUEUE}),
        (ServerSettings, {**C112_SERVER, **OUR_SERVER}),
    ],
)
def test_settings_have_the_defaults_of_the_component(settings, expected):
    """Code that makes settings without zope.conf gets what zope.conf would have given."""
    assert values_of(settings()) == expected
