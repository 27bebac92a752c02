"""The variables of the environment: what they say, and what is refused."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import resolve
from collective.taskqueue.config import ServerSettings
from traceback import format_exception
from ZConfig import ConfigurationError
from zopeconf import SECRET
import pytest


URL = "redis://example.org/0"


def queues(environ, *sections):
    """The effective queues, by name."""
    found = resolve({str(number): each for number, each in enumerate(sections)}, environ)
    return {queue.queue: queue for queue in found.queues}


def servers(environ, *sections):
    """The effective consumers, by queue."""
    found = resolve({str(number): each for number, each in enumerate(sections)}, environ)
    return {server.queue: server for server in found.servers}


@pytest.mark.parametrize(
    ("url", "kind", "effective"),
    [
        ("redis://h/1", "redis", "redis://h/1"),
        ("rediss://h/1", "redis", "rediss://h/1"),
        ("unix:///run/redis.sock", "redis", "unix:///run/redis.sock"),
        ("redis+sentinel://h:26379/main/0", "redis", "redis+sentinel://h:26379/main/0"),
        ("sqlite:////var/queue.sqlite", "sql", "sqlite:////var/queue.sqlite"),
        ("postgresql://h/plone", "sql", "postgresql://h/plone"),
        ("local", "local", ""),
        ("local:", "local", ""),
        ("LOCAL://", "local", ""),
    ],
)
def test_one_url_is_one_queue(url, kind, effective):
    """Its scheme says the type; nothing else is needed."""
    found = queues({"TASKQUEUE_URL": url})
    assert [(queue.queue, queue.type, queue.url) for queue in found.values()] == [
        ("default", kind, effective)
    ]


@pytest.mark.parametrize(
    ("variable", "queue"),
    [
        ("TASKQUEUE_DEFAULT_URL", "default"),
        ("TASKQUEUE_MAIL_URL", "mail"),
        ("TASKQUEUE_MAIL_OUT_URL", "mail_out"),
        ("TASKQUEUE_URL_URL", "url"),
        ("TASKQUEUE_FILE_URL", "file"),
        ("TASKQUEUE_mail_URL", "mail"),
    ],
)
def test_a_queue_that_no_section_defines_is_made(variable, queue):
    assert list(queues({variable: URL})) == [queue]


@pytest.mark.parametrize("name", ["mail-out", "mail.out", "Mail_Out", "MAIL.OUT"])
def test_the_name_of_a_queue_in_a_variable(name):
    """Without its case, and with _ for - and dots."""
    found = queues({"TASKQUEUE_MAIL_OUT_URL": URL}, QueueSettings(queue=name, max_attempts=3))
    assert [(queue.queue, queue.url, queue.max_attempts) for queue in found.values()] == [
        (name, URL, 3)
    ]


def test_passwords_and_secrets():
    """Of any queue that there is."""
    environ = {
        "TASKQUEUE_URL": URL,
        "TASKQUEUE_PASSWORD": "s3c/ret",
        "TASKQUEUE_MAIL_SECRET": SECRET,
    }
    found = queues(environ, QueueSettings(queue="mail", type="redis"))
    assert (found["default"].password, found["default"].url) == ("s3c/ret", URL)
    assert (found["mail"].secret, found["mail"].type) == (SECRET, "redis")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize(
    ("key", "value"), [("url", URL), ("password", " s3cret "), ("secret", SECRET)]
)
def test_a_value_from_a_file(tmp_path, key, value, end):
    """One line end at its end belongs to the file, and blanks to the value."""
    path = tmp_path / "value"
    path.write_bytes(f"{value}{end}".encode())
    environ = {"TASKQUEUE_MAIL_URL": URL, f"TASKQUEUE_MAIL_{key.upper()}_FILE": str(path)}
    if key == "url":
        del environ["TASKQUEUE_MAIL_URL"]
    assert getattr(queues(environ)["mail"], key) == value


def test_of_two_line_ends_one_belongs_to_the_value(tmp_path):
    path = tmp_path / "value"
    path.write_text("s3cret\n\n")
    found = queues({"TASKQUEUE_URL": URL, "TASKQUEUE_PASSWORD_FILE": str(path)})
    assert found["default"].password == "s3cret\n"


@pytest.mark.parametrize("value", ["off", "OFF", " off "])
def test_no_consumers(value):
    """One image is a web server and a worker."""
    assert servers({"TASKQUEUE_CONSUMERS": value}, QueueSettings(), ServerSettings()) == {}


def test_consumers():
    """The limits are those of the variable; the other keys stay."""
    sections = [
        QueueSettings(),
        QueueSettings(queue="mail-out"),
        QueueSettings(queue="slow"),
        ServerSettings(name="worker", queue="mail-out", concurrent_limit=3, lease=5.0),
        ServerSettings(name="second", queue="mail-out"),
        ServerSettings(queue="slow"),
    ]
    found = servers({"TASKQUEUE_CONSUMERS": "default:2, MAIL_OUT"}, *sections)
    assert [(each.queue, each.name, each.concurrent_limit) for each in found.values()] == [
        ("default", "default", 2),
        ("mail-out", "worker", 3),
    ]
    assert found["mail-out"].lease == 5.0
    assert servers({"TASKQUEUE_CONSUMERS": "slow:0"}, *sections)["slow"].concurrent_limit == 0


def test_a_consumer_of_a_queue_of_the_environment():
    environ = {"TASKQUEUE_MAIL_URL": URL, "TASKQUEUE_CONSUMERS": "mail:4"}
    assert servers(environ)["mail"].concurrent_limit == 4


def test_an_empty_variable_is_not_set():
    """As a compose file sets it for a value that is not given."""
    environ = dict.fromkeys(("TASKQUEUE_URL", "TASKQUEUE_CONSUMERS", "TASKQUEUE_URL_FILE"), "")
    found = resolve({"a": QueueSettings(), "b": ServerSettings()}, environ)
    assert (len(found.queues), len(found.servers)) == (1, 1)


@pytest.mark.parametrize(
    "name",
    [
        "TASKQUEUE_PORT",
        "TASKQUEUE_SERVICE_HOST",
        "TASKQUEUE_SERVICE_PORT",
        "TASKQUEUE_SERVICE_PORT_REDIS",
        "TASKQUEUE_PORT_6379_TCP",
        "TASKQUEUE_PORT_6379_TCP_ADDR",
        "TASKQUEUE_REDIS_SERVICE_HOST",
        "TASKQUEUE_REDIS_PORT_6379_TCP_PROTO",
        "OTHER_TASKQUEUE_THING",
        "TASKQUEUES",
    ],
)
def test_variables_of_others(name):
    """Kubernetes names some for a service that is called taskqueue or taskqueue-redis."""
    assert queues({name: "tcp://10.0.0.1:6379"}) == {}


KNOWN = "; known are TASKQUEUE_CONFIG, TASKQUEUE_CONSUMERS, TASKQUEUE_URL,"

#: What is wrong with the environment, and the sentence that says so.
MISTAKES = {
    "a variable that is not known": (
        {"TASKQUEUE_CONSUMER": "off"},
        (
            "TASKQUEUE_CONSUMER in the environment: this variable is not known (do you mean"
            f" TASKQUEUE_CONSUMERS?){KNOWN}"
        ),
    ),
    "one of a queue": (
        {"TASKQUEUE_MAIL_ULR": URL},
        (
            "TASKQUEUE_MAIL_ULR in the environment: this variable is not known (do you mean"
            f" TASKQUEUE_MAIL_URL?){KNOWN}"
        ),
    ),
    "one of a file": (
        {"TASKQUEUE_MAIL_PASWORD_FILE": "/x"},
        (
            "TASKQUEUE_MAIL_PASWORD_FILE in the environment: this variable is not known (do you"
            f" mean TASKQUEUE_MAIL_PASSWORD_FILE?){KNOWN}"
        ),
    ),
    "one that is like no other": (
        {"TASKQUEUE_X": ""},
        f"TASKQUEUE_X in the environment: this variable is not known{KNOWN}",
    ),
    "a file of consumers": (
        {"TASKQUEUE_CONSUMERS_FILE": "/x"},
        "TASKQUEUE_CONSUMERS_FILE in the environment: this variable is not known",
    ),
    "two for one queue": (
        {"TASKQUEUE_URL": URL, "TASKQUEUE_DEFAULT_URL": URL},
        (
            "TASKQUEUE_URL in the environment: TASKQUEUE_DEFAULT_URL sets the same; remove one of"
            " the two"
        ),
    ),
    "a value and a file": (
        {"TASKQUEUE_URL": URL, "TASKQUEUE_URL_FILE": "/x"},
        (
            "TASKQUEUE_URL_FILE in the environment: TASKQUEUE_URL sets the same; remove one of the"
            " two"
        ),
    ),
    "no file": (
        {"TASKQUEUE_PASSWORD_FILE": "/nowhere/password"},
        (
            "TASKQUEUE_PASSWORD_FILE in the environment: the file /nowhere/password cannot be read:"
            " No such file or directory"
        ),
    ),
    "a folder": (
        {"TASKQUEUE_PASSWORD_FILE": "/"},
        ("TASKQUEUE_PASSWORD_FILE in the environment: the file / cannot be read: Is a directory"),
    ),
    "the password itself": (
        {"TASKQUEUE_PASSWORD_FILE": "s3cret"},
        "TASKQUEUE_PASSWORD_FILE in the environment: the value is no absolute path of a file",
    ),
    "a password for no queue": (
        {"TASKQUEUE_MAIL_PASSWORD": "s3cret", "TASKQUEUE_URL": URL},
        (
            "TASKQUEUE_MAIL_PASSWORD in the environment: there is no such queue, and no variable"
            " with its url (known: default)"
        ),
    ),
    "two passwords": (
        {"TASKQUEUE_URL": "redis://:s3cret@h/0", "TASKQUEUE_PASSWORD": "s3cret"},
        (
            "TASKQUEUE_URL in the environment with TASKQUEUE_PASSWORD of the environment: its url"
            " has a password, and password is set, too; remove one"
        ),
    ),
    "a bad secret": (
        {"TASKQUEUE_URL": URL, "TASKQUEUE_SECRET": "s3cret"},
        "TASKQUEUE_SECRET in the environment: ",
    ),
    "a scheme that is not known": (
        {"TASKQUEUE_URL": "postgres://jane:s3cret@h/plone"},
        (
            "TASKQUEUE_URL in the environment: its url says no type (do you mean postgresql?); a"
            " url begins with one of local://, redis://, rediss://,"
        ),
    ),
    "no scheme": (
        {"TASKQUEUE_URL": "s3cret:6379"},
        "TASKQUEUE_URL in the environment: its url says no type; a url begins with one of",
    ),
    "a local queue at a place": (
        {"TASKQUEUE_URL": "local://s3cret"},
        "TASKQUEUE_URL in the environment: a local queue is at no place; its url is local://",
    ),
    "a file that depends on the folder": (
        {"TASKQUEUE_URL": "sqlite:///queue.sqlite"},
        "TASKQUEUE_URL in the environment: the path queue.sqlite depends on where a process is",
    ),
    "a consumer without a queue": (
        {"TASKQUEUE_URL": URL, "TASKQUEUE_CONSUMERS": "mail"},
        "TASKQUEUE_CONSUMERS in the environment: there is no queue 'mail' (known: default)",
    ),
    "a consumer and no queue at all": (
        {"TASKQUEUE_CONSUMERS": "default"},
        "TASKQUEUE_CONSUMERS in the environment: there is no queue 'default' (known: none)",
    ),
    "a bad limit": (
        {"TASKQUEUE_URL": URL, "TASKQUEUE_CONSUMERS": "default:many"},
        "TASKQUEUE_CONSUMERS in the environment: 'many' is no whole number",
    ),
    "an empty limit": (
        {"TASKQUEUE_URL": URL, "TASKQUEUE_CONSUMERS": "default:"},
        "TASKQUEUE_CONSUMERS in the environment: '' is no whole number",
    ),
    "a bad name": (
        {"TASKQUEUE_URL": URL, "TASKQUEUE_CONSUMERS": "default,,"},
        "TASKQUEUE_CONSUMERS in the environment: a name is made of letters, digits,",
    ),
    "a queue twice": (
        {"TASKQUEUE_URL": URL, "TASKQUEUE_CONSUMERS": "default,default:2"},
        "TASKQUEUE_CONSUMERS in the environment: the queue default is named twice",
    ),
    "a queue twice in two spellings": (
        {"TASKQUEUE_URL": URL, "TASKQUEUE_CONSUMERS": "default,DEFAULT"},
        "TASKQUEUE_CONSUMERS in the environment: the queue default is named twice",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake):
    """It names the variable, and shows no secret; nor does a traceback."""
    environ, sentence = MISTAKES[mistake]
    with pytest.raises(ConfigurationError) as caught:
        resolve({}, environ)
    assert caught.value.message.startswith(sentence)
    assert "\n" not in caught.value.message
    assert "s3cret" not in "".join(format_exception(caught.value))


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "value"
    for content, reason in ((b"\xff\xfe", "it is not a text in UTF-8"), (b"\n", "it is empty")):
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=f"value cannot be read: {reason}$"):
            resolve({}, {"TASKQUEUE_URL_FILE": str(path)})


def test_two_queues_that_are_written_alike():
    """The variable would be for either."""
    sections = [QueueSettings(queue="a-b"), QueueSettings(queue="a.b")]
    for environ in ({"TASKQUEUE_A_B_URL": URL}, {"TASKQUEUE_CONSUMERS": "A_B"}):
        with pytest.raises(ConfigurationError, match=r"the queues a-b and a\.b are written alike"):
            queues(environ, *sections)
    assert list(servers({"TASKQUEUE_CONSUMERS": "a.b"}, *sections)) == ["a.b"]


def test_a_mistake_in_zope_conf_is_refused_without_consumers_too():
    """The same file starts a process with consumers elsewhere."""
    with pytest.raises(ConfigurationError, match="there is no queue 'mail'"):
        servers({"TASKQUEUE_CONSUMERS": "off"}, QueueSettings(), ServerSettings(queue="mail"))


def test_a_class_of_your_own():
    """Its urls are its own; a scheme that is known says the type."""
    section = QueueSettings(type="my.Storage", url="my://a")
    found = queues({"TASKQUEUE_URL": "my://b"}, section)["default"]
    assert (found.type, found.url) == ("my.Storage", "my://b")
    found = queues({"TASKQUEUE_URL": URL}, section)["default"]
    assert (found.type, found.url) == ("redis", URL)
