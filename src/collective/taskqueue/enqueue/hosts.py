"""Hosts in urls of this site: how a host is parsed, and which two are the same."""

from __future__ import annotations

from ipaddress import IPv6Address
import re


SCHEMES = ("http", "https")

#: Default ports of either scheme; None: the url has no port.
_PORTS = (None, 80, 443)
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_NETLOC = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?", re.ASCII)

#: Most characters of a host.
MAX_HOST = 255


def server_url(url: str) -> str | None:
    """Return scheme, host and port of a url of this site; None if that cannot be parsed.

    A browser, a proxy or an attacker may send any `Host` header, and Zope trusts it. The port
    is left out if the url has none.
    """
    scheme, _, netloc = url.partition("://")
    found = _host_and_port(netloc)
    if scheme not in SCHEMES or found is None:
        return None
    host, port = found
    return f"{scheme}://{host}" if port is None else f"{scheme}://{host}:{port}"


def are_same(url: str, *servers: str) -> bool:
    """Return whether an absolute url leads to one of these servers, each a host with its port.

    Case and scheme do not count: a proxy may speak https to clients and http to this server.
    Default ports do not count either.
    """
    netloc = re.split(r"[/?#]", url.partition("//")[2], maxsplit=1)[0]
    mine = _compared(netloc)
    return mine is not None and any(mine == _compared(server) for server in servers)


def _compared(netloc: str) -> tuple[str, int | None] | None:
    found = _host_and_port(netloc.rpartition("@")[2])
    if found is None:
        return None
    host, port = found
    port = None if port in _PORTS else port
    if host.startswith("["):
        return str(IPv6Address(host[1:-1])), port
    return host.lower().rstrip("."), port


def _host_and_port(netloc: str) -> tuple[str, int | None] | None:
    match = _NETLOC.fullmatch(netloc)
    if match is None or not _is_host(match[1]):
        return None
    port = int(match[2]) if match[2] else None
    return None if port is not None and not 0 < port < 65536 else (match[1], port)


def _is_host(host: str) -> bool:
    if not host.startswith("["):
        return len(host) <= MAX_HOST and _NAME.fullmatch(host) is not None
    if "%" in host:
        # An IPv6 zone is valid on one machine only.
        return False
    try:
        IPv6Address(host[1:-1])
    except ValueError:
        return False
    return True
