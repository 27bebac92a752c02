"""`<product-config collective.taskqueue>`: the same keys, without sections of ours."""

from collective.taskqueue.config import resolve
from collective.taskqueue.config.keys import datatypes
from collective.taskqueue.config.keys import SECTION_TYPES
from traceback import format_exception
from unit.config.test_refused import BAD_SERVER_VALUES
from unit.config.test_refused import BAD_VALUES
from ZConfig import ConfigurationError
from zopeconf import C112_QUEUE
from zopeconf import C112_SERVER
from zopeconf import OUR_QUEUE
from zopeconf import OUR_SERVER
from zopeconf import values_of
import pytest


def settings_of(load, *lines):
    """The effective settings of a zope.conf without a word of ours but these."""
    text = "\n".join(("<product-config collective.taskqueue>", *lines, "</product-config>"))
    return resolve(load(text, ""), {})


def test_queues_and_consumers(load):
    """As a tool writes them that knows no section of ours."""
    found = settings_of(
        load,
        "queue.default.type redis",
        "queue.default.url redis://localhost",
        "queue.mail.out.url sqlite:////var/mail.sqlite",
        "queue.mail.out.timeout 10m",
        "queue.third.queue Third",
        "consumer.default.concurrent_limit 2",
        "consumer.worker1.queue mail.out",
    )
    assert [values_of(queue) for queue in found.queues] == [
        {**C112_QUEUE, **OUR_QUEUE, "type": "redis", "url": "redis://localhost"},
        {
            **C112_QUEUE,
            **OUR_QUEUE,
            "queue": "mail.out",
            "type": "sql",
            "timeout": 600.0,
            "url": "sqlite:////var/mail.sqlite",
        },
        {**C112_QUEUE, **OUR_QUEUE, "queue": "Third"},
    ]
    assert [values_of(server) for server in found.servers] == [
        {**C112_SERVER, **OUR_SERVER, "concurrent_limit": 2},
        {**C112_SERVER, **OUR_SERVER, "name": "worker1", "queue": "mail.out"},
    ]


def test_beside_sections_of_ours(load):
    """Each defines what the other does not."""
    text = (
        "<taskqueue />\n<taskqueue-server>\n queue mail\n</taskqueue-server>\n"
        "<product-config collective.taskqueue>\n queue.mail.timeout 5\n</product-config>"
    )
    found = resolve(load(text), {})
    assert [queue.queue for queue in found.queues] == ["default", "mail"]
    assert [server.queue for server in found.servers] == ["mail"]


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        *[("queue", key, value) for key, values in BAD_VALUES.items() for value in values],
        *[
            ("consumer", key, value)
            for key, values in BAD_SERVER_VALUES.items()
            for value in values
        ],
    ],
)
def test_a_bad_value_has_the_sentence_of_a_section(load, word, key, value):
    """The same reason; the key and the section are named, and the line is not known."""
    section = SECTION_TYPES[word == "consumer"]
    with pytest.raises(ConfigurationError) as caught:
        load(f"<taskqueue />\n<{section}>\n  {key} {value}\n</{section}>")
    reason = caught.value.message.partition(": ")[2].partition(" (line ")[0]
    lines = f"{word}.default.{key} {value}", "consumer.default.queue default"
    with pytest.raises(ConfigurationError) as caught:
        settings_of(load, *lines[: 1 + (word == "queue")])
    assert caught.value.message == (
        f"<product-config collective.taskqueue>: {word}.default.{key}: {reason}"
    )


PLACE = "<product-config collective.taskqueue>"

MISTAKES = {
    "an unknown key": (
        ["queue.default.tmeout 5"],
        (
            f"{PLACE}: queue.default.tmeout: 'tmeout' is not a known key name (do you mean"
            " timeout?); known are allow_hosts, backoff,"
        ),
    ),
    "an unknown key of a consumer": (
        ["consumer.default.limit 5"],
        (
            f"{PLACE}: consumer.default.limit: 'limit' is not a known key name; known are"
            " concurrent_limit, grace,"
        ),
    ),
    "an unknown word": (
        ["queues.default.timeout 5"],
        (
            f"{PLACE}: 'queues.default.timeout' is not a known key name (do you mean queue?); a"
            " key has the form queue.<name>.<key> or consumer.<name>.<key>"
        ),
    ),
    "a key without a name": (
        ["queue.timeout 5"],
        (
            f"{PLACE}: 'queue.timeout' is not a known key name (do you mean"
            " queue.default.timeout?); a key"
        ),
    ),
    "a key of a section": (
        ["concurrent_limit 5"],
        (
            f"{PLACE}: 'concurrent_limit' is not a known key name (do you mean"
            " consumer.default.concurrent_limit?); a key"
        ),
    ),
    "an empty name": (["queue..timeout 5"], f"{PLACE}: 'queue..timeout' is not a known key name"),
    "a bad name": (
        [f"queue.{'a' * 101}.timeout 5"],
        f"{PLACE}: queue.{'a' * 101}.timeout: a name is made of",
    ),
    "a type that contradicts the url": (
        ["queue.default.type sql", "queue.default.url redis://:s3cret@h"],
        (
            f"{PLACE}: queue.default: type sql contradicts its url, which is of type redis; write"
            " type redis or leave the type out"
        ),
    ),
    "two queues of one name": (
        ["queue.a.queue b", "queue.b.timeout 5"],
        f"{PLACE}: queue.b: queue 'b' is already defined by {PLACE}: queue.a",
    ),
    "a consumer that leaves its queue out": (
        ["queue.mail.timeout 5", "queue.default.timeout 5", "consumer.mail.lease 5"],
        f"{PLACE}: consumer.mail: which queue? write consumer.mail.queue mail",
    ),
    "a consumer without a queue": (
        ["consumer.worker.lease 5"],
        f"{PLACE}: consumer.worker: there is no queue 'default' (known: none)",
    ),
    "a url in the wrong key": (
        ["queue.default.port redis://:s3cret@h"],
        f"{PLACE}: queue.default.port: … is no whole number",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(load, mistake):
    lines, sentence = MISTAKES[mistake]
    with pytest.raises(ConfigurationError) as caught:
        settings_of(load, *lines)
    assert caught.value.message.startswith(sentence)
    assert "\n" not in caught.value.message
    assert "s3cret" not in "".join(format_exception(caught.value))


@pytest.mark.parametrize("key", ["password", "url", "secret"])
def test_a_dollar_in_a_password(load, key):
    """ZConfig would quote it; it cannot be kept from that without `%import`."""
    with pytest.raises(ConfigurationError) as caught:
        load(
            "<product-config other>\n a b\n</product-config>\n"
            "<product-config collective.taskqueue>\n"
            f" queue.default.{key} s3c$ret\n</product-config>"
        )
    assert caught.value.message == (
        f"{PLACE}: what follows a $ in this value is no name that is defined; a $ itself is"
        " written $$"
    )
    with pytest.raises(ConfigurationError, match="no replacement for 'nothing'"):
        load("<product-config other>\n a $nothing\n</product-config>")


def test_the_keys_are_those_of_the_sections():
    """Nothing is declared twice."""
    assert set(datatypes("taskqueue")) == {*C112_QUEUE, *OUR_QUEUE}
    assert set(datatypes("taskqueue-server")) == {*C112_SERVER, *OUR_SERVER}
