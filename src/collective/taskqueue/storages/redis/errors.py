"""Errors of a Redis server, as errors of the storage contract."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.storages.secrets import masked
from collective.taskqueue.storages.secrets import shown
from collective.taskqueue.storages.urls import mistake
from contextlib import contextmanager
import re
import redis.exceptions


#: What the client puts before the error of one command of a pipeline.
_PIPELINE = re.compile(r"Command # \d+ .*? of pipeline caused error: ", re.DOTALL)

#: The first word of an error reply, if the server gave it a code.
_CODE = re.compile(r"[A-Z]+(?= |$)")

#: The client removes the code from the text of these errors; some versions keep it nowhere else.
_CODES: tuple[tuple[type[Exception], str], ...] = (
    (redis.exceptions.MasterDownError, "MASTERDOWN"),
    (redis.exceptions.ClusterDownError, "CLUSTERDOWN"),
    (redis.exceptions.MovedError, "MOVED"),
    (redis.exceptions.AskError, "ASK"),
    (redis.exceptions.NoPermissionError, "NOPERM"),
    (redis.exceptions.NoScriptError, "NOSCRIPT"),
    (redis.exceptions.OutOfMemoryError, "OOM"),
    (redis.exceptions.ReadOnlyError, "READONLY"),
    (redis.exceptions.TryAgainError, "TRYAGAIN"),
)

#: Codes of a server that is up but cannot carry out the command right now.
_TEMPORARY = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH", "NOREPLICAS", "OOM"}
    | {"READONLY", "WRONGPASS", "TRYAGAIN", "UNBLOCKED"}
)

#: What our scripts answer, and what a command in them may.
_OURS = frozenset({"UNKNOWN", "WRONGTYPE", "NOPERM"})


class WrongKind(Exception):
    """A key has a value of the wrong type, which this package did not write."""


class _Mistaken(StorageUnavailable):
    """The server does not serve a queue with these settings, until one of both is changed."""


@contextmanager
def at_start(settings: QueueSettings) -> Iterator[None]:
    """As `translated`, but raise `ConfigurationError` for errors that do not pass by themselves."""
    try:
        with translated():
            yield
    except _Mistaken as exc:
        raise mistake(settings, str(exc)) from None
    except redis.exceptions.ResponseError as exc:
        raise mistake(settings, _refusal(exc)) from None


@contextmanager
def translated() -> Iterator[None]:
    """Translate errors of redis in the block into the errors of the storage contract.

    Every reply with a code of its own says in which state the server is. What has none, or ERR,
    is a fault of the call, and is raised as it is.
    """
    try:
        yield
    except redis.exceptions.ResponseError as exc:
        code, detail = code_of(exc)
        if code == "UNKNOWN":
            raise UnknownTask(f"no task {detail} in this queue") from None
        if code == "WRONGTYPE":
            raise WrongKind(str(exc)) from exc
        if code in _TEMPORARY:
            raise StorageUnavailable(masked(f"{code} {detail}")) from shown(exc)
        if "DB index" in str(exc):
            raise _Mistaken("the server has no database of this number") from exc
        if code in ("", "ERR"):
            raise
        raise _Mistaken(_refusal(exc)) from shown(exc)
    except (redis.exceptions.RedisError, OSError) as exc:
        raise StorageUnavailable(masked(f"{type(exc).__name__}: {exc}")) from shown(exc)


def code_of(exc: redis.exceptions.ResponseError) -> tuple[str, str]:
    """Return the code of an error reply, empty if it has none, and its text without the code."""
    text = _PIPELINE.sub("", str(exc), count=1)
    for kind, code in _CODES:
        if isinstance(exc, kind):
            return code, text.removeprefix(f"{code} ")
    found = _CODE.match(text)
    code = found[0] if found else ""
    # Newer versions of the client keep an ERR here. Servers put it before the code of a command in
    # a script, too.
    if getattr(exc, "status_code", None) == "ERR" and code not in _TEMPORARY | _OURS:
        return "ERR", text
    return code, text[len(code) :].strip()


def _refusal(exc: redis.exceptions.ResponseError) -> str:
    return f"the server refuses to serve a queue: {masked(' '.join(code_of(exc)).strip())}"
