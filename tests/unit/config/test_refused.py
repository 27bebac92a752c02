"""zope.conf under Zope's own WSGI schema: what it refuses, and how."""

from collective.taskqueue import config
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from traceback import format_exception
from ZConfig import ConfigurationError
from zopeconf import C112_QUEUE
from zopeconf import C112_SERVER
from zopeconf import OUR_QUEUE
from zopeconf import OUR_SERVER
from zopeconf import SECRET
from zopeconf import split
import pytest
import re


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
    "queue and queues": (
        "<taskqueue />\n<taskqueue-server>\n queue default\n queues default\n</taskqueue-server>",
        r"<taskqueue-server> \(line 4 of .*\): queue and queues are both set; remove one",
    ),
    "queues without a limit": (
        (
            "<taskqueue />\n<taskqueue-server>\n queues default\n concurrent_limit 0\n"
            "</taskqueue-server>"
        ),
        r"<taskqueue-server> \(line 4 of .*\): without a concurrent_limit no task waits",
    ),
    "an unknown queue of several": (
        "<taskqueue />\n<taskqueue-server>\n queues default mail\n</taskqueue-server>",
        r"<taskqueue-server> \(line 4 of .*\): there is no queue 'mail' \(known: default\)",
    ),
    "a queue of several that another consumer of the name has": (
        (
            "<taskqueue />\n<taskqueue-server>\n queues default\n</taskqueue-server>\n"
            "<taskqueue-server />"
        ),
        r"<taskqueue-server> \(line 7 .*\): <taskqueue-server> \(line 4 .*\) has the same",
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

BAD_NAMES = ["", ".a", ".", "a b", "ä", "a:b", "a/b", "*", "a" * 101]
BAD_VALUES = {
    "queue": BAD_NAMES,
    "type": ["", "reddis", "my.", ".Storage", "my package.Storage"],
    "port": ["abc", "-1", "70000", "1.5"],
    "max_attempts": ["0", "-1", "1.5", "many"],
    "backoff": ["", "none", "lineal"],
    "min_backoff": ["-1", "abc", "nan", "inf"],
    "max_backoff": ["-1", "abc", "nan", "inf"],
    "transient_statuses": ["abc", "4xx", "399", "500", "429,503", "-429"],
    "once": ["2", "maybe", ""],
    "timeout": ["0", "-1", "abc", "nan", "inf"],
    "keep_succeeded": ["-1", "abc", "nan", "inf"],
    "keep_failed": ["-1", "abc", "nan", "inf"],
    "max_finished": ["0", "-1", "abc"],
    "max_finished_bytes": ["-1", "abc", "1 apple"],
    "max_waiting_per_person": ["-1", "1.5", "abc"],
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
    "copy_headers": ["X-A, X-B", "X-*-A", "X:A", "Bücher"],
}
BAD_SERVER_VALUES = {
    "queues": ["a a", "a b/c"],
    "name": BAD_NAMES,
    "queue": BAD_NAMES,
    "concurrent_limit": ["-1", "1.5", "abc"],
    "retry_max_count": ["-1", "1.5", "abc"],
    "lease": ["0", "-1", "abc", "nan", "inf"],
    "grace": ["-1", "abc", "nan", "inf"],
}

#: Owner every value means something.
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


@pytest.mark.parametrize("value", ["s3c$ret", "s3cret$", "$s3cret", "s3cret$(x", "${s3cret", "$1"])
@pytest.mark.parametrize("key", ["password", "url", "secret"])
def test_a_dollar_in_a_password(load, key, value):
    """D3 of issue 12: the sentence says how to write it, and nothing of what it is."""
    with pytest.raises(ConfigurationError) as caught:
        load(f"<taskqueue>\n {key} {value}\n</taskqueue>")
    # The names of the files have the value in them.
    sentence = caught.value.message.partition("): ")[2]
    assert sentence == (
        "what follows a $ in this value is no name that is defined; a $ itself is written $$"
    )
    assert (caught.value.lineno, caught.value.message[:22]) == (4, "<taskqueue> (line 3 of")
    assert caught.value.__context__ is None


def test_a_password_that_is_not_in_the_environment(load, monkeypatch):
    """The error names the variable, for an administrator who has forgotten it."""
    with pytest.raises(ConfigurationError, match="there is no NAME_OF_NOTHING in the environm"):
        load("<taskqueue>\n password $(NAME_OF_NOTHING)\n</taskqueue>")
    monkeypatch.setenv("NAME_OF_NOTHING", "a$b")
    queues, _ = split(load("<taskqueue>\n password $(NAME_OF_NOTHING)$$c\n</taskqueue>"))
    assert queues["default"].password == "a$b$c"


def test_values_of_others_are_told_as_ever(load):
    with pytest.raises(ConfigurationError, match="no replacement for 'nothing'"):
        load("<environment>\n NAME $nothing\n</environment>")


def test_sections_made_by_hand_are_checked_too():
    """As tests and other frameworks do, in a list or in a mapping, without a file."""
    for sections in (
        [QueueSettings(), QueueSettings()],
        {"a": QueueSettings(), "b": ServerSettings(queue="mail")},
    ):
        with pytest.raises(ConfigurationError, match=r"^<taskqueue"):
            config.check(sections)
    assert config.check([QueueSettings(), object(), ServerSettings()]) is None


URL = "redis://:s3cret@127.0.0.1/0"


@pytest.mark.parametrize(
    "line",
    [
        f"type {URL}",
        "type jane:s3cret@host",
        f"queue {URL}",
        f"port {URL}",
        "port s3cret@1",
        f"max_attempts {URL}",
        f"stage_timeout {URL}",
        f"max_payload {URL}",
        f"backoff {URL}",
        f"transient_statuses 408 {URL}",
        "allow_hosts localhost http://jane:s3cret@host",
        f"copy_headers X-A {URL}",
        f"url\n {URL}",
        f"{URL} url",
        f"type sql\n url sqlite:///{URL}",
        f"type sql\n url sqlite:///file:{URL}",
        f"type local\n url {URL}",
    ],
)
def test_a_url_in_the_wrong_place_is_not_shown(load, line):
    """D3 of issue 12: it may have a password; neither the sentence nor a traceback has it."""
    with pytest.raises(ConfigurationError) as caught:
        load(f"<taskqueue>\n {line}\n</taskqueue>")
    text = "".join(format_exception(caught.value))
    assert "s3cret" not in text
    assert re.search(r"<taskqueue> \(line 3 of .*zope.conf\)", text)


def test_what_is_no_url_is_quoted(load):
    """It says what to look for."""
    with pytest.raises(ConfigurationError, match="unknown type 'reddis'"):
        load("<taskqueue>\n type reddis\n</taskqueue>")


NEAR = {
    "a key": (
        "tmeout 5",
        r"'tmeout' is not a known key name \(do you mean timeout\?\); known",
    ),
    "a type": (
        "type rediss",
        r"unknown type 'rediss' \(do you mean redis\?\); use local",
    ),
    "a back-off": ("backoff lineal", r"backoff is exponential or linear \(do you mean linear\?\)"),
    "a duration": (
        "timeout 5 parsecs",
        r"'5 parsecs' is none: write seconds, or a duration such",
    ),
    "a size": (
        "max_payload 5 parsecs",
        r"'5 parsecs' is none: write bytes, or a size such as",
    ),
    "a type and a url": (
        "type sql\n url redis://h",
        r"type sql contradicts its url, which is of type redis; write type redis or leave the type",
    ),
    "a url that says no type": (
        "url postgre://h/plone",
        r"its url says no type \(do you mean postgresql\?\); a url begins with one of local://",
    ),
    "a password twice": (
        "type redis\n url redis://:a@h\n password b",
        r"its url has a password, and password is set, too; remove one$",
    ),
    "a password in an option": (
        "type redis\n url redis://h?password=a\n password b",
        r"its url has a password, and password is set, too; remove one$",
    ),
}


@pytest.mark.parametrize("mistake", NEAR)
def test_the_sentence_says_what_to_write_instead(load, mistake):
    text, sentence = NEAR[mistake]
    with pytest.raises(ConfigurationError, match=rf"^<taskqueue> \(line 3 of .*\): {sentence}"):
        load(f"<taskqueue>\n {text}\n</taskqueue>")


def test_all_known_keys_are_listed(load):
    for section, known in (
        ("taskqueue", {*C112_QUEUE, *OUR_QUEUE}),
        ("taskqueue-server", {*C112_SERVER, *OUR_SERVER}),
    ):
        with pytest.raises(ConfigurationError) as caught:
            load(f"<taskqueue />\n<{section} x>\n colour red\n</{section}>")
        assert caught.value.message.endswith(f"known are {', '.join(sorted(known))}")
