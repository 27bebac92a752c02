"""What is a host, and which two are the same."""

from collective.taskqueue.enqueue.hosts import are_same
from collective.taskqueue.enqueue.hosts import server_url
from hypothesis import given
from hypothesis import strategies as st
from urllib.parse import urlsplit
import pytest


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8080", "http://localhost:8080"),
        ("https://www.example.org", "https://www.example.org"),
        ("https://WWW.example.org.:8443", "https://WWW.example.org.:8443"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://my_service:80", "http://my_service:80"),
        ("http://xn--hxajbheg2az3al.xn--jxalpdlp", "http://xn--hxajbheg2az3al.xn--jxalpdlp"),
        ("http://example.org:", "http://example.org"),
    ],
)
def test_a_server(url, expected):
    assert server_url(url) == expected


ODD_HOSTS = [
    "",
    " ",
    ":8080",
    "example.org:99999",
    "example.org:0",
    "example.org:port",
    "example.org:-1",
    "example.org:8_0",
    "example.org:\N{FULLWIDTH DIGIT EIGHT}",
    "[",
    "]",
    "[]",
    "[::1",
    "::1",
    "[::1]x",
    "[::1%eth0]",
    "[1.2.3.4]",
    "[v1.x]",
    "a, b",
    "a,b",
    "x:80:80",
    "user@example.org",
    "user:secret@example.org:80",
    "exa mple.org",
    "exa\tmple.org",
    "example.org\r\nX: y",
    "example.org\0",
    "example.org/path",
    "example.org?x",
    "example.org#x",
    "example.org\\x",
    "..",
    "a..b",
    "ä.example.org",
    "\udc80.example.org",
    "%65xample.org",
    "x" * 256,
    "*",
]


@pytest.mark.parametrize("host", ODD_HOSTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_is_no_server(scheme, host):
    assert server_url(f"{scheme}://{host}") is None


@pytest.mark.parametrize("url", ["", "www.example.org", "ftp://example.org", "//example.org"])
def test_what_is_no_url_of_a_server(url):
    assert server_url(url) is None


@given(st.text() | st.text("[]:@/.%0a1 ,"))
def test_a_server_can_be_parsed(host):
    """That is what the publisher relies on."""
    found = server_url(f"http://{host}")
    if found is not None:
        parts = urlsplit(found)
        assert parts.hostname
        assert parts.port is None or 0 < parts.port < 65536
        assert parts.geturl() == found


SAME = [
    ("//www.example.org/news", "www.example.org"),
    ("http://www.example.org/news", "www.example.org:443"),
    ("https://www.example.org/news", "www.example.org"),
    ("https://WWW.Example.ORG", "www.example.org"),
    ("http://www.example.org:80/x", "www.example.org:443"),
    ("https://www.example.org:443?x", "WWW.EXAMPLE.ORG."),
    ("HTTP://localhost:8080/Plone", "localhost:8080"),
    ("http://user@localhost:8080/", "localhost:8080"),
    ("http://[::1]:8080/", "[0:0:0:0:0:0:0:1]:8080"),
]
OTHERS = [
    ("https://example.org/", "www.example.org"),
    ("http://localhost:8081/", "localhost:8080"),
    ("http://localhost/", "localhost:8080"),
    ("http://www.example.org.evil.example/", "www.example.org"),
    ("http:///", ""),
    ("http://[/", "["),
    ("http://a, b/", "a, b"),
]


@pytest.mark.parametrize(("url", "server"), SAME)
def test_the_same_server(url, server):
    assert are_same(url, "elsewhere", server)


@pytest.mark.parametrize(("url", "server"), OTHERS)
def test_another_server(url, server):
    assert not are_same(url, server)
