"""No web hook reaches an address that is not public, however it is spelled (D15)."""

from collective.taskqueue.webhook.guard import Guard
from collective.taskqueue.webhook.guard import Refused
import pytest
import socket


REFUSED = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://127.255.255.254/",
    "http://0/",
    "http://0.0.0.0/",
    "http://0x0/",
    "http://localhost/",
    "http://localhost./",
    "http://LOCALHOST/",
    "http://10.0.0.1/",
    "http://10.255.255.255/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://192.168.255.255/",
    "http://3232235521/",
    "http://0xc0a80001/",
    "http://169.254.169.254/",
    "http://169.254.0.1/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://100.64.0.1/",
    "http://100.127.255.255/",
    "http://100.100.100.200/",
    "http://192.0.0.1/",
    "http://192.0.0.192/",
    "http://192.0.0.9/",
    "http://192.88.99.1/",
    "http://168.63.129.16/",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://239.255.255.255/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://127.0.0.1:8080/",
    "https://127.0.0.1:8443/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b::10.0.0.1]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:a00:1::]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://[2001:0:7f00:1::]/",
    "http://[2001:0:808:808::80ff:fffe]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25lo]/",
    "http://[fec0::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://[100::1]/",
    "http://[3fff::1]/",
    "http://[5f00::1]/",
    "http://[64:ff9b::c000:c0]/",
    "http://[2002:a83f:8110::1]/",
    "http://[2001:4860::5efe:a9fe:a9fe]/",
    "http://[2001:4860::200:5efe:a00:1]/",
    "ftp://8.8.8.8/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/",
    "javascript:alert(1)",
    "http://",
    "http:///path",
    "http://user@8.8.8.8/",
    "http://user:word@8.8.8.8/",
    "http://8.8.8.8@127.0.0.1/",
    "http://8.8.8.8:22/",
    "http://8.8.8.8:6379/",
    "http://8.8.8.8:0/",
    "http://8.8.8.8:99999/",
    "http://8.8.8.8:x/",
    "http://[::1/",
    "http://::1/",
    "http://exa\u3002mple.org/",
    "http://\uff11\uff12\uff17.0.0.1/",
    "http://a,b/",
    "http://a%00b/",
    "http://127.0.0.1%2f@8.8.8.8/",
    "http://8.8.8.8\\@127.0.0.1/",
]

PUBLIC = ["http://8.8.8.8/", "https://1.1.1.1/x?y", "http://9.9.9.9:8080/"]
PUBLIC += [
    "http://[2001:4860:4860::8888]/",
    "http://[::ffff:8.8.8.8]/",
    "http://[64:ff9b::808:808]/",
    "http://[2001:4860::5efe:808:808]/",
    "http://168.63.129.17/",
]


def reach(guard, url):
    """The socket addresses that a call of this url would connect to."""
    _, host, port = guard.check_url(url)
    return guard.addresses(host, port)


@pytest.mark.parametrize("url", REFUSED)
def test_refused(url):
    """No packet is sent; a name that does not resolve reaches no server either."""
    with pytest.raises((Refused, socket.gaierror)):
        reach(Guard(), url)


def test_there_are_enough_spellings():
    """The list must not shrink unnoticed."""
    assert len(set(REFUSED)) >= 60


@pytest.mark.parametrize("url", PUBLIC)
def test_public(url):
    """What is public is reached; nothing is sent here, only resolved."""
    assert reach(Guard(), url)


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1/"),
        ("127.0.0.0/8", "http://127.9.9.9/"),
        ("127.0.0.0/8:5000", "http://127.0.0.1:5000/"),
        ("localhost", "http://localhost:5000/"),
        ("localhost:5000", "http://LOCALHOST.:5000/"),
        ("[::1]:5000", "http://[::1]:5000/"),
        ("::1", "http://[::1]/"),
    ],
)
def test_allowed(entry, url):
    """An entry allows what it names, and with it any port, or the one it names."""
    with pytest.raises(Refused):
        reach(Guard(), url)
    assert reach(Guard([entry]), url)


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("127.0.0.1:5000", "http://127.0.0.1:5001/"),
        ("127.0.0.1:5000", "http://127.0.0.2:5000/"),
        ("localhost:5000", "http://127.0.0.1:5000/"),
        ("localhost", "http://10.0.0.1/"),
        ("10.0.0.0/24", "http://10.0.1.0/"),
    ],
)
def test_allowed_is_no_more_than_named(entry, url):
    """Another port, another host, another network: refused."""
    with pytest.raises(Refused):
        reach(Guard([entry]), url)


@pytest.mark.parametrize("entry", ["", "a b", "http://x", "10.0.0.0/33", "ho$t"])
def test_an_entry_that_is_nothing_is_refused(entry):
    """When zope.conf is read."""
    with pytest.raises(ValueError, match="no host"):
        Guard([entry])


def test_one_private_address_among_public_ones_is_refused(monkeypatch):
    """A name must not lead inside some of the time."""
    answers = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))
        for address in ("8.8.8.8", "192.168.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answers)
    with pytest.raises(Refused) as refused:
        reach(Guard(), "http://example.org/")
    # Who asks is not told where inside the name leads.
    assert str(refused.value) == "example.org is at no public address"
    assert refused.value.detail == "example.org is at 192.168.0.1"
