"""Values with units, and values whose case does not matter."""

from collective.taskqueue.config import datatypes
from zopeconf import split
import pytest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90.0),
        ("0", 0.0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("500ms", 0.5),
        ("90s", 90.0),
        ("10m", 600.0),
        ("10 M", 600.0),
        ("2h", 7200.0),
        ("1.5h", 5400.0),
        ("1d", 86400.0),
        ("1D", 86400.0),
    ],
)
def test_durations(text, expected):
    assert datatypes.seconds(text) == expected
    if expected:
        assert datatypes.positive_seconds(text) == expected


@pytest.mark.parametrize(
    "text", ["", "m", "1w", "1min", "-1m", "1h30m", "1e3", "0x10", "1_0", "inf", "nan", "9" * 400]
)
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="seconds, or a duration such as 500ms, 90s, 10m, 2h or"):
        datatypes.seconds(text)


def test_no_time_at_all():
    with pytest.raises(ValueError, match="it must be more than 0: write seconds, or a duration"):
        datatypes.positive_seconds("0ms")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("4096", 4096),
        ("10b", 10),
        ("64KB", 64 * 1024),
        ("64 kb", 64 * 1024),
        ("1.5MB", 3 * 512 * 1024),
        ("1gb", 1024**3),
        ("2TB", 2 * 1024**4),
    ],
)
def test_sizes(text, expected):
    assert datatypes.size(text) == expected


@pytest.mark.parametrize("text", ["", "KB", "1 apple", "-1", "-1KB", "1K", "1PB", "nan", "9" * 400])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="bytes, or a size such as 64KB, 10MB or 1GB"):
        datatypes.size(text)


def test_the_case_of_a_value_does_not_matter(load):
    """Of those that a person chooses from a list."""
    text = "type Redis\n backoff LINEAR\n once TRUE\n timeout 2H\n max_payload 64kB"
    queues, _ = split(load(f"<taskqueue>\n {text}\n</taskqueue>"))
    queue = queues["default"]
    assert (queue.type, queue.backoff, queue.once) == ("redis", "linear", True)
    assert (queue.timeout, queue.max_payload) == (7200.0, 65536)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("on", True), ("Yes", True), ("true", True), ("OFF", False), ("no", False), ("False", False)],
)
def test_booleans(text, expected):
    assert datatypes.boolean(text) is expected


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://h", "redis"),
        ("sqlite:////var/q.sqlite", "sql"),
        ("sqlite+pysqlite:////var/q.sqlite", "sql"),
        ("postgresql+psycopg://h/plone", "sql"),
        ("local://", "local"),
    ],
)
def test_a_url_says_the_type(load, url, kind):
    """With or without the key type."""
    for more in ("", f"\n type {kind}"):
        queues, _ = split(load(f"<taskqueue>\n url {url}{more}\n</taskqueue>"))
        assert queues["default"].type == kind
