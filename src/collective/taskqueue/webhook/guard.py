"""Decides which addresses a web hook may be sent to: by the address, not by the name.

A name is resolved once, its addresses are checked, and the connection goes to a checked address.
So a name that resolves to another address the second time gains nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from ipaddress import ip_network
from ipaddress import IPv4Address
from ipaddress import IPv6Address
from ipaddress import IPv6Network
from typing import Any
from urllib.parse import urlsplit
import re
import socket


#: Standard ports of the web; any other port has to be allowed together with its host.
PORTS = frozenset({80, 443, 8080, 8443})

_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")

#: IPv6 networks whose addresses embed an IPv4 address, and the bits to shift it by.
_CARRIERS = (
    (IPv6Network("::ffff:0:0/96"), 0),
    (IPv6Network("::/96"), 0),
    (IPv6Network("64:ff9b::/96"), 0),
    (IPv6Network("64:ff9b:1::/48"), 0),
    (IPv6Network("2002::/16"), 80),
)
#: Networks among them whose addresses only stand for the embedded address.
_TRANSLATED = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))

_TEREDO = IPv6Network("2001::/32")

#: The bits of an ISATAP interface above the embedded address, but for two of them.
_ISATAP = 0x00005EFE
_ISATAP_MASK = 0xFCFFFFFF

#: Not public, although `is_global` of some Python version says so: Python follows a registry that
#: changes, and does not know which addresses are reached inside the cloud of a provider.
_NOT_PUBLIC = (
    ip_network("192.0.0.0/24"),
    ip_network("192.88.99.0/24"),
    ip_network("168.63.129.16/32"),
    ip_network("fec0::/10"),
    ip_network("3fff::/20"),
    ip_network("5f00::/16"),
)


def allowed_hosts(value: str) -> str:
    """Datatype of zope.conf: hosts, addresses and networks, separated by blanks.

    Raises `ValueError` for anything else.
    """
    Guard(value.split())
    return value


class Refused(ValueError):
    """A url or an address that web hooks may not be sent to.

    `detail` is for the log only: a caller must not learn what our host names resolve to.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class Guard:
    """The rules of one queue: public addresses are allowed, and those in `allow_hosts`.

    An entry is a host name, an address or a network, each with or without ``:port``. A
    network of IPv6 has no port.
    """

    def __init__(self, allow_hosts: Iterable[str] = ()) -> None:
        self._names: set[tuple[str, int | None]] = set()
        self._networks: list[tuple[Any, int | None]] = []
        for entry in allow_hosts:
            self._allow(entry)

    def check_url(self, url: str) -> tuple[str, str, int]:
        """Return scheme, host and port of a url that may be called.

        Raises `Refused`. The host is not resolved yet.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            # A password with a slash in it is parsed as a port, and would be quoted.
            detail = "" if "@" in url else f": {exc}"
            raise Refused(f"{_shown(url)!r} is no url{detail}") from None
        if parts.scheme not in ("http", "https"):
            raise Refused(f"web hooks are called by http or https, not by {parts.scheme!r}")
        if "@" in parts.netloc:
            raise Refused("the url of a web hook carries no user and no password")
        if not parts.hostname or not _HOST.fullmatch(parts.netloc.removesuffix(f":{port}")):
            raise Refused(f"there is no valid host in {_shown(url)!r}")
        port = port if port is not None else {"http": 80, "https": 443}[parts.scheme]
        host = parts.hostname.rstrip(".").lower()
        if port not in PORTS and not self._names_port(host, port):
            raise Refused(f"port {port} is none of the web, and not listed in allow_hosts")
        return parts.scheme, host, port

    def addresses(self, host: str, port: int) -> list[tuple[Any, ...]]:
        """Resolve the host and return the socket addresses that may be connected to.

        Raises `Refused` if any of them is refused, and `OSError` if the host has none.
        """
        host = host.strip("[]").rstrip(".").lower()
        # IDNA may turn other digits into those of an address; only plain names get here.
        found = [item[4] for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        for address in found:
            if not self._allows(host, str(address[0]), port):
                raise Refused(f"{host} is at no public address", f"{host} is at {address[0]}")
        return found

    def _allow(self, entry: str) -> None:
        name, port = _split(entry.lower())
        try:
            self._networks.append((ip_network(name, strict=False), port))
        except ValueError:
            if not re.fullmatch(r"[a-z0-9._-]+", name):
                raise ValueError(f"{entry!r} is no host, address or network") from None
            self._names.add((name.rstrip("."), port))

    def _names_port(self, host: str, port: int) -> bool:
        if {(host, port), (host, None)} & self._names:
            return True
        try:
            address = ip_address(host)
        except ValueError:
            # Whether a network allows the host is known only when the name is resolved.
            return any(allowed == port for _, allowed in self._networks)
        return self._in_networks(address, port)

    def _allows(self, host: str, text: str, port: int) -> bool:
        if {(host, port), (host, None)} & self._names:
            return True
        address = ip_address(text.partition("%")[0])
        if self._in_networks(address, port):
            return True
        return port in PORTS and all(_is_public(each) for each in _carried(address))

    def _in_networks(self, address: IPv4Address | IPv6Address, port: int) -> bool:
        return any(
            address in network and allowed in (None, port) for network, allowed in self._networks
        )


def _shown(url: str) -> str:
    # Without query and credentials: more people may read a reason than the url.
    return re.sub(r"//.*@", "//", re.split("[?#]", url, maxsplit=1)[0])


def _split(entry: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):(\d{1,5})", entry)
    if match is None:
        return re.sub(r"\A\[([^\[\]]+)\]\Z", r"\1", entry), None
    port = int(match[3])
    if not 1 <= port <= 65535:
        raise ValueError(f"{entry!r}: there is no port {port}")
    return match[1] or match[2], port


def _carried(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """Return the address itself and those at which a packet to it may end up."""
    found: list[IPv4Address | IPv6Address] = []
    if isinstance(address, IPv6Address):
        for network, shift in _CARRIERS:
            if address in network:
                found.append(IPv4Address(int(address) >> shift & 0xFFFFFFFF))
        if address in _TEREDO:
            found.append(IPv4Address(~int(address) & 0xFFFFFFFF))
            found.append(IPv4Address(int(address) >> 64 & 0xFFFFFFFF))
        if int(address) >> 32 & _ISATAP_MASK == _ISATAP:
            found.append(IPv4Address(int(address) & 0xFFFFFFFF))
        if any(address in network for network in _TRANSLATED):
            return found
    return [address, *found]


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if address.is_multicast or address.is_unspecified or address.is_reserved:
        return False
    return address.is_global and not any(address in network for network in _NOT_PUBLIC)
