"""The cursors of searches, as clients get them: they reveal nothing.

A cursor of a storage has a number in it that grows with each task that anybody adds. So a client
gets it encrypted, by a secret of the site, and only for the user who made the request.
"""

from __future__ import annotations

from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.task import Identity
from hashlib import blake2b
from hashlib import shake_256
from hmac import compare_digest
from plone.keyring.interfaces import IKeyManager
from secrets import token_bytes
from zope.component import getUtility
import base64
import json


#: Bytes of the random number that each cursor begins with, and of the code at its end.
NONCE, CODE = 12, 12

#: Most characters of a cursor: the name of a queue is in it.
LONGEST = 2000


def sealed(queue: str, cursor: str | None, user: Identity | None) -> str:
    """Return the cursor of a client: where to go on, in which queue; None is its beginning."""
    data = json.dumps([queue, cursor]).encode()
    nonce = token_bytes(NONCE)
    body = nonce + _encrypted(data, nonce)
    return base64.urlsafe_b64encode(body + _code(body, user)).decode()


def opened(text: str, user: Identity | None) -> tuple[str, str | None]:
    """Return the queue and the cursor that `sealed` was given.

    Raises `InvalidTask` for any other text, and for the cursor of another user.
    """
    try:
        data = base64.b64decode(text.encode("ascii")[:LONGEST], altchars=b"-_", validate=True)
    except ValueError:
        data = b""
    body, code = data[:-CODE], data[-CODE:]
    if not compare_digest(code, _code(body, user)):
        raise InvalidTask(
            "cursor", "no answer to you had this cursor; leave it out to begin with the oldest task"
        )
    queue, cursor = json.loads(_encrypted(body[NONCE:], body[:NONCE]))
    return queue, cursor


def _encrypted(data: bytes, nonce: bytes) -> bytes:
    """Encrypt, or decrypt: the same bytes of a stream are combined with the data."""
    stream = shake_256(_key(b"cipher") + nonce).digest(len(data))
    return bytes(one ^ other for one, other in zip(data, stream, strict=True))


def _code(body: bytes, user: Identity | None) -> bytes:
    data = body + repr(user).encode("utf-8", "surrogatepass")
    return blake2b(data, key=_key(b"code"), digest_size=CODE).digest()


def _key(purpose: bytes) -> bytes:
    secret = str(getUtility(IKeyManager).secret()).encode()
    return blake2b(b"collective.taskqueue cursor " + purpose + secret, digest_size=32).digest()
