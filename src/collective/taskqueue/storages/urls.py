"""Checks of the urls of storages: a malformed url is refused with an error of one sentence.

Without these checks, a library would quote a malformed part in its error, and that may be a
part of a password; or the library would read another meaning than intended.
"""

from __future__ import annotations

from collections.abc import Collection
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.storages.secrets import remember
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from ipaddress import IPv6Address
from urllib.parse import parse_qsl
from urllib.parse import SplitResult
from urllib.parse import unquote
from urllib.parse import urlencode
from urllib.parse import urlsplit
import re
import ssl


#: Allowed options of a Redis url, besides those that begin with `ssl_`. They change the
#: connection, but not the form of the replies.
REDIS_OPTIONS = frozenset(
    {"client_name", "db", "health_check_interval", "password", "socket_connect_timeout"}
    | {"socket_keepalive", "socket_timeout", "username"}
)

#: The scheme of a url that names sentinels.
SENTINEL = "redis+sentinel"

#: Options of a service that sentinels watch.
_SERVER_OPTIONS = REDIS_OPTIONS - {"db", "password", "username"}

#: Options of a url of TLS that name a file.
_FILES = ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs")

_SENTINELS = f"{SENTINEL}://host1:26379,host2:26379/service/0"

_UNREADABLE = (
    "its url cannot be read; in a user, a password and what follows a ?, every sign but letters,"
    " digits, -, ., _ and ~ is written in its percent-encoding: / is %2F, ? is %3F, # is %23,"
    " @ is %40, : is %3A, % is %25"
)
_NOT_ENCODED = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"(\[[^\[\]@]*\]|[^\[\]@:]*)(:.*)?", re.DOTALL)
_FILE = "sqlite:////path/to/a/file"
_FILE_QUERY = re.compile(r"uri=true(?:&mode=(rwc?|ro))?|mode=(rwc?|ro)&uri=true")


def server_url(settings: QueueSettings) -> SplitResult:
    """Return the parts of the url of a server: ``scheme://user:password@host:port/path?query``.

    Raises `ConfigurationError` if it is malformed; the message quotes nothing of the url.
    Registers the passwords in it to be masked from then on.
    """
    url = settings.url
    rest = url.partition("://")[2]
    # If the url cannot be read, its password is not known and cannot be masked.
    authority, tail = _halves(rest)
    ambiguous = "@" in tail and authority
    if ambiguous or authority.count("@") > 1 or re.search(r"[\s\\#\x00-\x1f\x7f]", url):
        raise mistake(settings, _UNREADABLE)
    user, _, server = authority.rpartition("@")
    host = _HOST.fullmatch(server)
    if _NOT_ENCODED.search(url) or re.search(r"[\[\]]", user) or host is None or "%" in host[1]:
        raise mistake(settings, _UNREADABLE)
    port = host[2]
    if port and not (re.fullmatch(r":[0-9]{1,5}", port) and 0 < int(port[1:]) < 65536):
        raise mistake(settings, "the port in its url is no number from 1 to 65535")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise mistake(settings, _UNREADABLE) from None
    password = user.partition(":")[2]
    query = parse_qsl(parts.query, keep_blank_values=True)
    remember(password, unquote(password), *(v for name, v in query if "password" in name))
    return parts


def redis_url(settings: QueueSettings) -> str:
    """Return the url of a Redis server; raises `ConfigurationError` if it is malformed."""
    scheme = settings.url.partition("://")[0]
    if scheme not in ("redis", "rediss", "unix") or "://" not in settings.url:
        raise mistake(
            settings,
            "the url of type redis begins with redis://, rediss://, unix:// or redis+sentinel://",
        )
    parts = server_url(settings)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if scheme == "unix":
        if parts.netloc.rpartition("@")[2] or len(parts.path) < 2:
            raise mistake(
                settings, "the url of a socket has three slashes and a path: unix:///path"
            )
        if re.search(":.*@", parts.path):
            # The url has one slash too many; the library would quote the password as path.
            raise mistake(
                settings,
                "a user and a password of a socket stand before its path: unix://u:p@/path",
            )
    elif re.fullmatch(r"/?|/[0-9]+/?", parts.path) is None:
        raise mistake(settings, "the path in its url is the number of a database, like /0")
    refuse_options(settings, {name for name in options if not _is_of_redis(name)})
    check_database(settings, options.get("db", "0"))
    if scheme == "rediss":
        _check_certificates(settings, options)
    return settings.url


@dataclass(frozen=True)
class SentinelUrl:
    """The parts of the url of a service that Redis Sentinel watches."""

    #: Host and port of each sentinel.
    sentinels: tuple[tuple[str, int], ...]
    service: str
    #: The url of the server, with the user, the database and the options of the service, and with
    #: the host of a sentinel: the host of the server is not known yet.
    server: str = field(repr=False)
    #: The login at the sentinels.
    username: str
    password: str = field(repr=False)


def sentinel_url(settings: QueueSettings) -> SentinelUrl:
    """Return the parts of ``redis+sentinel://user:password@host:port,host:port/service/db``.

    Raises `ConfigurationError` if the url is malformed; the message quotes nothing of it.
    """
    authority, tail = _halves(settings.url.partition("://")[2])
    user, at, hosts = authority.rpartition("@")
    sentinels = []
    for host in hosts.split(","):
        parts = server_url(replace(settings, url=f"{SENTINEL}://{user}{at}{host}{tail}"))
        if not parts.hostname:
            raise mistake(settings, f"its url has a sentinel without a name; write {_SENTINELS}")
        sentinels.append((parts.hostname, parts.port or 26379))
    path = re.fullmatch(r"/([A-Za-z0-9._-]+)(?:/([0-9]{1,9})?)?", parts.path)
    if path is None:
        raise mistake(settings, f"its url names a service, and a database by number: {_SENTINELS}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    login = [options.pop(f"sentinel_{name}", "") for name in ("username", "password")]
    refuse_options(settings, options.keys() - _SERVER_OPTIONS)
    query = f"?{urlencode(options)}" if options else ""
    server = f"redis://{user}{at}{parts.hostname}/{path[2] or 0}{query}"
    return SentinelUrl(tuple(sentinels), path[1], server, *login)


def sqlite_file(settings: QueueSettings) -> tuple[str, str]:
    """Return the absolute path of the file that the url of SQLite names, and its open mode.

    The path is the part after ``sqlite:///``, with percent-encodings decoded. The mode is empty,
    or ro, rw or rwc for a url with SQLite's own ``file:``. Raises `ConfigurationError` if the
    url has no path, or an ambiguous one.
    """
    found = re.fullmatch(r"sqlite(?:\+pysqlite)?://(.*)", settings.url, re.DOTALL)
    path = found[1] if found else ""
    if path[:1] not in ("", "/"):
        raise mistake(settings, f"the url of a file has a path and no host: {_FILE}")
    path, asked, query = path[1:].partition("?")
    if not path or path in (":memory:", "file::memory:"):
        raise mistake(settings, "the url must name a file")
    mode = ""
    if path.startswith("file:"):
        known = _FILE_QUERY.fullmatch(query)
        if known is None:
            raise mistake(settings, f"the url of a file is {_FILE}, without file:")
        path, asked = path.removeprefix("file:").removeprefix("//"), ""
        mode = known[1] or known[2] or "rwc"
    if asked:
        raise mistake(
            settings,
            "the url of a file takes no options; write a ? that is a part of the path as %3F",
        )
    if _NOT_ENCODED.search(path):
        raise mistake(settings, "a % that is a part of the path in its url is written %25")
    path = unquote(path)
    if re.search(r"[\x00-\x1f\x7f]", path):
        raise mistake(settings, "the path in its url has control characters")
    if not path.startswith("/"):
        raise mistake(settings, f"the path in its url is not absolute; write {_FILE}")
    return path, mode


def check_host(settings: QueueSettings) -> None:
    """Raise `ConfigurationError` unless `host` is a host and `unix_socket_path` a path.

    A url in one of these keys may have a password, which the library would quote as a host.
    """
    host = settings.host
    if re.search(r"[\s/@?#\\\[\]]", host) or (":" in host and not _is_ipv6(host)):
        raise mistake(settings, "host is the name or the address of a server; a url is in url")
    if "://" in settings.unix_socket_path:
        raise mistake(settings, "unix_socket_path is the path of a socket; a url is in url")


def check_database(settings: QueueSettings, number: str) -> None:
    """Raise `ConfigurationError` unless this is the number of a Redis database."""
    if re.fullmatch(r"[0-9]{1,9}", number) is None:
        raise mistake(settings, "db is the number of a database, 0 or more")


def refuse_options(settings: QueueSettings, unknown: Collection[str]) -> None:
    """Raise `ConfigurationError` with the names of unknown options in the url, if there are any.

    The message has no values, and no text that cannot be a name.
    """
    if unknown:
        names = sorted(name if re.fullmatch(r"\w{1,40}", name) else "…" for name in unknown)
        raise mistake(settings, f"its url has options that are not known here: {', '.join(names)}")


def mistake(settings: QueueSettings, reason: str) -> ConfigurationError:
    """Return an error to raise, one sentence that names the section of zope.conf."""
    return ConfigurationError(f"{settings.place}: {reason}")


def _halves(rest: str) -> tuple[str, str]:
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return authority, rest[len(authority) :]


def _check_certificates(settings: QueueSettings, options: dict[str, str]) -> None:
    # Otherwise each call would fail, as if the server were away.
    for name in _FILES:
        if name in options and not options[name].startswith("/"):
            raise mistake(settings, f"{name} in its url is not the absolute path of a file")
    certificate, key = options.get("ssl_certfile"), options.get("ssl_keyfile")
    if key and not certificate:
        raise mistake(settings, "its url has ssl_keyfile, but no ssl_certfile")
    try:
        context = ssl.create_default_context()
        if authorities := options.get("ssl_ca_certs"):
            context.load_verify_locations(authorities)
        if certificate:
            # A key that needs a password would ask for it at the terminal.
            password = options.get("ssl_password", "")
            context.load_cert_chain(certificate, key, lambda: password)
    except OSError as exc:
        # Also the errors of TLS; these name no file.
        reason = exc.strerror or type(exc).__name__
        used = ", ".join(name for name in _FILES if name in options)
        reason = f"the files of {used} in its url cannot be used: {reason}"
        raise mistake(settings, reason) from None


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_of_redis(name: str) -> bool:
    return name in REDIS_OPTIONS or name.startswith("ssl_")
