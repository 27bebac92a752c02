"""The urls of storages: what is read, and what is refused without a word of what it says."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.storages import secrets
from collective.taskqueue.storages.urls import check_host
from collective.taskqueue.storages.urls import redis_url
from collective.taskqueue.storages.urls import server_url
from collective.taskqueue.storages.urls import sqlite_file
from urllib.parse import quote
import pytest


PLACE = "<taskqueue> (line 2 of zope.conf)"

UNREADABLE = "its url cannot be read; in a user, a password and what follows a ?, every sign but"
PORT = "the port in its url is no number from 1 to 65535"


def settings(url):
    return QueueSettings(url=url, place=PLACE)


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch):
    monkeypatch.setattr(secrets, "_known", set())


#: Passwords with a sign that means something in a url.
PASSWORDS = [f"first{sign}second" for sign in ("/", "?", "#", "@", "%", " ", "[", "]", "\\")]


@pytest.mark.parametrize("password", [*PASSWORDS, "/#@", "@", "a@b/c#d", "%zz", "1/2", "x:1/2"])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "postgresql"])
@pytest.mark.parametrize("user", ["", "jane"])
def test_an_unescaped_password(scheme, user, password):
    """D3 of issue 12: the sentence has no part of it, and no error that has one stands behind."""
    host = "" if scheme == "unix" else "host.example"
    read = redis_url if scheme != "postgresql" else server_url
    with pytest.raises(ConfigurationError) as caught:
        read(settings(f"{scheme}://{user}:{password}@{host}/0"))
    assert str(caught.value).startswith(f"{PLACE}: {UNREADABLE}")
    assert "first" not in str(caught.value)
    assert "second" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    right = settings(f"{scheme}://{user}:{quote(password, safe='')}@{host}/0")
    assert read(right)
    assert secrets.masked(f"it is {password!s}.") == "it is ***."


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://h:abc", PORT),
        ("redis://h:0", PORT),
        ("redis://h:65536/0", PORT),
        ("redis://h:-1/0", PORT),
        ("redis://h:/0", PORT),
        ("redis://:s3cret", PORT),
        ("rediss://[::1]:x/0", PORT),
        ("redis://[::1:1/0", UNREADABLE),
        ("redis://::1/0", PORT),
        ("redis://jane%3As3cret%40h/0", UNREADABLE),
        ("redis://h/0#1", UNREADABLE),
        ("redis://h /0", UNREADABLE),
        ("redis://h/abc", "the path in its url is the number of a database, like /0"),
        ("redis://h/-1", "the path in its url is the number of a database, like /0"),
        ("redis://h/0/1", "the path in its url is the number of a database, like /0"),
        ("redis://h?db=x", "db is the number of a database, 0 or more"),
        ("unix:///s?db=-1", "db is the number of a database, 0 or more"),
        ("redis://h/0?decode_responses=1", "its url has options that are not known here: decode"),
        ("redis://h/0?a=s3cret&b", "its url has options that are not known here: a, b"),
        ("redis://h/0?s3 cret", UNREADABLE),
        ("redis://h/0?s-cret", "its url has options that are not known here: …"),
        ("unix://", "the url of a socket has three slashes and a path: unix:///path"),
        ("unix:///", "the url of a socket has three slashes and a path: unix:///path"),
        ("unix://run/s3cret", "the url of a socket has three slashes and a path: unix:///path"),
        ("unix:///:s3cret@/run/redis.sock", "a user and a password of a socket stand before"),
        (
            "unix:///jane:s3cret@run/redis.sock?db=1",
            "a user and a password of a socket stand before",
        ),
        (
            "unix:/run/redis",
            "the url of type redis begins with redis://, rediss://, unix:// or redis+sentinel://",
        ),
        (
            "h:6379",
            "the url of type redis begins with redis://, rediss://, unix:// or redis+sentinel://",
        ),
        (
            "valkey://h",
            "the url of type redis begins with redis://, rediss://, unix:// or redis+sentinel://",
        ),
        (
            "://s3cret",
            "the url of type redis begins with redis://, rediss://, unix:// or redis+sentinel://",
        ),
    ],
)
def test_a_malformed_url_of_redis(url, reason):
    """E5 of issue 12: one sentence that names the section, and nothing of the url."""
    with pytest.raises(ConfigurationError) as caught:
        redis_url(settings(url))
    assert str(caught.value).startswith(f"{PLACE}: {reason}")
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


HOST = "host is the name or the address of a server; a url is in url"


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"host": "redis://:s3cret@h:1/0"}, HOST),
        ({"host": "jane:s3cret@h"}, HOST),
        ({"host": ":s3cret@h"}, HOST),
        ({"host": "s3cret@h"}, HOST),
        ({"host": "h/s3cret"}, HOST),
        ({"host": "h s3cret"}, HOST),
        ({"host": "h:s3cret"}, HOST),
        ({"host": "[::1]"}, HOST),
        (
            {"unix_socket_path": "unix://:s3cret@/run/redis.sock"},
            "unix_socket_path is the path of a socket; a url is in url",
        ),
    ],
)
def test_keys_in_the_place_of_a_url(keys, reason):
    """D3 of issue 12: a url there is refused before the library quotes it as a host."""
    with pytest.raises(ConfigurationError) as caught:
        check_host(QueueSettings(place=PLACE, **keys))
    assert str(caught.value) == f"{PLACE}: {reason}"


@pytest.mark.parametrize(
    "keys",
    [
        {"host": "redis_1.internal."},
        {"host": "bücher.example"},
        {"host": "127.0.0.1"},
        {"host": "::1"},
        {"host": "fe80::1%eth0"},
        {"unix_socket_path": "/run/redis@6379/a:b.sock"},
        {"unix_socket_path": "var/redis.sock"},
    ],
)
def test_keys_that_say_where(keys):
    """Every name that a resolver or a file system may know is accepted."""
    check_host(QueueSettings(place=PLACE, **keys))


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://h/",
        "redis://h:6379/15",
        "redis://[::1]:6379/0",
        "redis://u@h",
        "redis://:a:b@h",
        "rediss://u:p@h:1/0?ssl_cert_reqs=none&ssl_check_hostname=false",
        "redis://h?db=3&socket_timeout=5",
        "unix:///run/a@b.sock?db=1",
        "unix:///run/a@b:c.sock",
        "unix:///run/a%23b.sock",
        "unix://u:p@/run/redis.sock?db=1",
        "unix:///s?username=u&password=p",
    ],
)
def test_a_url_of_redis(url):
    """What redis-py documents, as it is."""
    assert redis_url(settings(url)) == url


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////a/b", "/a/b"),
        ("sqlite+pysqlite:////a/b", "/a/b"),
        ("sqlite:////a/b c#d@e", "/a/b c#d@e"),
        ("sqlite:////a/b%3Fc%20d%25", "/a/b?c d%"),
        ("sqlite:////a/%C3%A9/é", "/a/é/é"),
        ("sqlite:////a/:memory:", "/a/:memory:"),
        ("sqlite:////file:/a", "/file:/a"),
    ],
)
def test_a_url_of_sqlite(url, path):
    """E5 of issue 12: the path is what it says, decoded once."""
    assert sqlite_file(settings(url)) == (path, "")


@pytest.mark.parametrize(
    ("url", "path", "mode"),
    [
        ("sqlite:///file:/a/b?uri=true", "/a/b", "rwc"),
        ("sqlite:///file:/a/b%3F%20c?uri=true&mode=rw", "/a/b? c", "rw"),
        ("sqlite:///file:///a/b?mode=ro&uri=true", "/a/b", "ro"),
    ],
)
def test_a_url_of_sqlite_with_one_of_its_own_in_it(url, path, mode):
    """What SQLAlchemy documents, as far as it makes sense for a queue."""
    assert sqlite_file(settings(url)) == (path, mode)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite://", "the url must name a file"),
        ("sqlite:///", "the url must name a file"),
        ("sqlite:///:memory:", "the url must name a file"),
        ("sqlite:///?a", "the url must name a file"),
        ("sqlite:///file::memory:?uri=true", "the url must name a file"),
        ("sqlite://host/a", "the url of a file has a path and no host: sqlite:////path/to/a/file"),
        ("sqlite:///a/b", "the path in its url is not absolute; write sqlite:////path/to/a/file"),
        ("sqlite:///C:/a", "the path in its url is not absolute"),
        ("sqlite:///C:\\a", "the path in its url is not absolute"),
        ("sqlite:///file:a?uri=true", "the path in its url is not absolute"),
        ("sqlite:///file://host/a?uri=true", "the path in its url is not absolute"),
        ("sqlite:////a?b", "the url of a file takes no options; write a ? that is a part of the"),
        ("sqlite:////a?timeout=3", "the url of a file takes no options"),
        ("sqlite:////a?", "the url of a file takes no options"),
        ("sqlite:///file:/a", "the url of a file is sqlite:////path/to/a/file, without file:"),
        ("sqlite:///file:/a?uri=true&mode=memory", "the url of a file is sqlite:////path/to/a"),
        ("sqlite:////a%", "a % that is a part of the path in its url is written %25"),
        ("sqlite:////a%0Ab", "the path in its url has control characters"),
        ("sqlite:////a%00b", "the path in its url has control characters"),
    ],
)
def test_a_malformed_url_of_sqlite(url, reason):
    """E5 of issue 12: no other file is opened than the one that the administrator meant."""
    with pytest.raises(ConfigurationError) as caught:
        sqlite_file(settings(url))
    assert str(caught.value).startswith(f"{PLACE}: {reason}")
    assert "\n" not in str(caught.value)


def test_what_is_masked():
    """Passwords of queues, as they are and as they stand in the url, in any sentence."""
    server_url(settings("postgresql://jane:p%40ss@h/db?sslpassword=other"))
    secrets.remember("db", "")
    said = 'invalid: password=p@ss "p%40ss" other, in brother and db-1'
    assert secrets.masked(said) == 'invalid: password=*** "***" ***, in brother and ***-1'
