"""The command line wins over the environment, then come sections, product-config, the defaults."""

from collective.taskqueue.config import command
from collective.taskqueue.config import load
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.config.keys import datatypes
from itertools import product
from ZConfig import ConfigurationError
from zopeconf import SECRET
from zopeconf import values_of
import pytest


ENVIRONMENT, SECTION, PRODUCT = "environment", "section", "product-config"

#: The sources, the strongest first.
SOURCES = (ENVIRONMENT, SECTION, PRODUCT)

#: Of keys of a queue, the text that each source gives; one of them cannot give every key.
QUEUE = {
    "url": {
        ENVIRONMENT: "redis://environment/0",
        SECTION: "redis://section/0",
        PRODUCT: "redis://product/0",
    },
    "password": {ENVIRONMENT: "environment", SECTION: "section", PRODUCT: "product"},
    "secret": {
        ENVIRONMENT: SECRET,
        SECTION: f"whsec_{'b3RoZXIg' * 4}",
        PRODUCT: f"whsec_{'dGhpcmQg' * 4}",
    },
    "max_attempts": {SECTION: "7", PRODUCT: "8"},
    # The default, said explicitly.
    "keep_failed": {SECTION: "604800", PRODUCT: "60"},
    "copy_headers": {SECTION: "x-section", PRODUCT: "x-product"},
}

#: The same of a consumer.
SERVER = {
    "concurrent_limit": {ENVIRONMENT: "2", SECTION: "3", PRODUCT: "4"},
    "lease": {SECTION: "30", PRODUCT: "40"},
}


def cells(table):
    """Every key with every set of sources that give it."""
    for key, texts in table.items():
        every = [source for source in SOURCES if source in texts]
        for chosen in product((True, False), repeat=len(every)):
            yield key, [source for source, is_set in zip(every, chosen, strict=True) if is_set]


def configured(folder, kind, key, texts):
    """Return the settings if each source gives the key this text."""
    section, word = {"queue": ("taskqueue", "queue"), "server": ("taskqueue-server", "consumer")}[
        kind
    ]
    sections = {"taskqueue": [], "taskqueue-server": []}
    if SECTION in texts:
        sections[section].append(f"{key} {texts[SECTION]}")
    lines = ["%import collective.taskqueue"]
    for name, keys in sections.items():
        if keys or name == "taskqueue":
            lines += [f"<{name}>", *keys, f"</{name}>"]
    if PRODUCT in texts:
        lines += ["<product-config collective.taskqueue>"]
        lines += [f"{word}.default.{key} {texts[PRODUCT]}", "</product-config>"]
    environ = {}
    if ENVIRONMENT in texts:
        name = "CONSUMERS" if kind == "server" else key.upper()
        text = texts[ENVIRONMENT]
        environ[f"TASKQUEUE_{name}"] = f"default:{text}" if kind == "server" else text
    conf = folder / "zope.conf"
    conf.write_text("\n".join((f"instancehome {folder}", *lines, "")))
    return load(conf, environ)


@pytest.mark.parametrize(("key", "sources"), list(cells(QUEUE)))
def test_a_key_of_a_queue(tmp_path, key, sources):
    texts = {source: QUEUE[key][source] for source in sources}
    (queue,) = configured(tmp_path, "queue", key, texts).queues
    expected = values_of(QueueSettings())[key]
    if sources:
        expected = datatypes("taskqueue")[key](texts[sources[0]])
    assert getattr(queue, key) == expected


@pytest.mark.parametrize(("key", "sources"), list(cells(SERVER)))
def test_a_key_of_a_consumer(tmp_path, key, sources):
    texts = {source: SERVER[key][source] for source in sources}
    found = configured(tmp_path, "server", key, texts).servers
    if not sources:
        # Without a word of it there is no consumer.
        assert found == ()
        return
    assert [values_of(each) for each in found] == [
        {**values_of(ServerSettings()), key: float(texts[sources[0]])}
    ]


CONF = """\
instancehome {folder}
%import collective.taskqueue
<taskqueue>
  queue default
  {section}
</taskqueue>
<product-config collective.taskqueue>
  queue.default.max_attempts 4
  {product}
</product-config>
"""


def queue_of(folder, section, product, **environ):
    conf = folder / "zope.conf"
    conf.write_text(CONF.format(folder=folder, section=section, product=product))
    (queue,) = load(conf, environ).queues
    return queue


#: For the keys that together say where a storage is: those of the section, of product-config,
#: the environment, and what comes out.
PLACES = {
    "all of a section": (
        "type redis\n host section\n port 1",
        "queue.default.type redis\n queue.default.db 7\n queue.default.password s3cret",
        {},
        {"type": "redis", "host": "section", "port": 1, "db": "0", "password": ""},
    ),
    "a url over a host": (
        "url sqlite:////section",
        "queue.default.type redis\n queue.default.host product",
        {},
        {"type": "sql", "url": "sqlite:////section", "host": "localhost"},
    ),
    "a password of another source": (
        "password section",
        "queue.default.url redis://product",
        {},
        {"type": "redis", "url": "redis://product", "password": "section"},
    ),
    "a url of the environment": (
        "type redis\n unix_socket_path /section\n password section",
        "queue.default.password product",
        {"TASKQUEUE_URL": "redis://environment"},
        {"type": "redis", "url": "redis://environment", "unix_socket_path": "", "password": ""},
    ),
    "a password of the environment": (
        "type redis\n host section\n password section",
        "",
        {"TASKQUEUE_PASSWORD": "environment"},
        {"type": "redis", "host": "section", "password": "environment"},
    ),
    "the memory of the process": (
        "type redis\n host section\n password section",
        "",
        {"TASKQUEUE_URL": "local://"},
        {"type": "local", "url": "", "host": "localhost", "password": ""},
    ),
}


@pytest.mark.parametrize("case", PLACES)
def test_where_a_storage_is_comes_from_one_source(tmp_path, case):
    """No password goes to a server that it was not written for; the other keys stay."""
    section, product, environ, expected = PLACES[case]
    queue = queue_of(tmp_path, section, product, **environ)
    assert {key: getattr(queue, key) for key in expected} == expected
    assert queue.max_attempts == 4


def test_the_environment_section_of_zope_conf(tmp_path):
    """Zope sets its variables, and so buildout does: they win over those of the process."""
    conf = tmp_path / "zope.conf"
    sections = (
        "<environment>\n TASKQUEUE_URL redis://file\n TASKQUEUE_CONSUMERS default\n</environment>",
        "%import collective.taskqueue\n<taskqueue-server>\n lease 5\n</taskqueue-server>",
    )
    # The environment also defines the queue that the section needs.
    for text in (sections[0], "\n".join(sections)):
        conf.write_text(f"instancehome {tmp_path}\n{text}\n")
        for environ in ({"TASKQUEUE_URL": "redis://process"}, {}):
            found = load(conf, environ)
            assert [queue.url for queue in found.queues] == ["redis://file"]
            assert [server.queue for server in found.servers] == ["default"]


@pytest.fixture
def chosen():
    """Say on the command line which consumers to start."""
    yield command.choose_consumers
    command.choose_consumers(None)


@pytest.mark.parametrize("section", ["", "TASKQUEUE_CONSUMERS mail:4"])
@pytest.mark.parametrize("variables", [{}, {"TASKQUEUE_CONSUMERS": "mail:5"}])
def test_the_command_line_wins_over_everything(tmp_path, chosen, section, variables):
    """Over the environment, also that of zope.conf; what it does not say stays."""
    conf = tmp_path / "zope.conf"
    conf.write_text(
        f"instancehome {tmp_path}\n<environment>\n{section}\n</environment>\n"
        "%import collective.taskqueue\n<taskqueue />\n<taskqueue>\nqueue mail\n</taskqueue>\n"
        "<taskqueue-server>\nlease 7\n</taskqueue-server>\n"
    )
    chosen([("default", 2)])
    [server] = load(conf, variables).servers
    assert (server.queue, server.concurrent_limit, server.lease) == ("default", 2, 7.0)
    chosen([("mail", None), ("default", 0)])
    found = {server.queue: server.concurrent_limit for server in load(conf, variables).servers}
    assert found == {"mail": 1, "default": 0}


def test_a_mistake_on_the_command_line(chosen):
    """The sentence says where it is."""
    chosen([("nowhere", None)])
    sentence = r"^the option queue of the worker: there is no queue 'nowhere' \(known: default\)$"
    with pytest.raises(ConfigurationError, match=sentence):
        load(None, {"TASKQUEUE_URL": "redis://h", "TASKQUEUE_CONSUMERS": "default"})


def test_the_environment_alone():
    found = load(None, {"TASKQUEUE_URL": "redis://h", "TASKQUEUE_CONSUMERS": "default:3"})
    assert [queue.url for queue in found.queues] == ["redis://h"]
    assert [server.concurrent_limit for server in found.servers] == [3]


def test_the_variables_of_the_process_do_not_count(tmp_path, monkeypatch):
    """Only those that are passed; also for the checks while the file is read."""
    monkeypatch.setenv("TASKQUEUE_URL", "nowhere")
    monkeypatch.setenv("TASKQUEUE_CONSUMERS", "nowhere")
    conf = tmp_path / "zope.conf"
    conf.write_text(f"instancehome {tmp_path}\n%import collective.taskqueue\n<taskqueue />\n")
    assert [queue.type for queue in load(conf, {}).queues] == ["local"]
    with pytest.raises(ConfigurationError, match="TASKQUEUE_URL"):
        load(conf, {"TASKQUEUE_URL": "nowhere"})


def test_no_file(tmp_path):
    with pytest.raises(ConfigurationError, match=r"zope\.conf: there is no such file"):
        load(tmp_path / "zope.conf", {})
