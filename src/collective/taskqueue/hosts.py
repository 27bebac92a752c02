"""Hosts in urls of this site: what is one, and which two are the same."""

from __future__ import annotations

from ipaddress import IPv6Address
import re


_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_NETLOC = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?", re.ASCII)

#: Characters that a host may have.
MAX_HOST = 255


def server_url(url: str) -> str | None:
    """Return scheme, host and port of a url of this site; None if that cannot be parsed.

    Browsers, proxies and people who mean no good send any `Host` there is, and Zope believes
    it. Without a port that goes without saying.
    """
    scheme, _, netloc = url.partition("://")
    found = _host_and_port(netloc)
    if scheme not in _PORTS or found is None:
        return None
    host, port = found
    return f"{scheme}://{host}" if port is None else f"{scheme}://{host}:{port}"


def are_same(url: str, *netlocs: tuple[str, str]) -> bool:
    """Return whether a url leads to one of these servers, each a scheme and a host with its port.

    Whatever the case, and with or without the port of a scheme. A proxy may speak https to
    the world and http to us: both mean the same server.
    """
    scheme, _, rest = url.partition("://")
    mine = _compared(scheme.lower(), re.split(r"[/?#]", rest, maxsplit=1)[0])
    return mine is not None and any(mine == _compared(*other) for other in netlocs)


def _compared(scheme: str, netloc: str) -> tuple[str, int | None] | None:
    """Host and port, None for the one of the scheme."""
    found = _host_and_port(netloc.rpartition("@")[2])
    if found is None:
        return None
    host, port = found
    port = None if port == _PORTS.get(scheme) else port
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
        # A zone means something on one machine only.
        return False
    try:
        IPv6Address(host[1:-1])
    except ValueError:
        return False
    return True
