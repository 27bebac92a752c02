"""The key that a client gives to a task: any text, compared only with the client's own tasks.

It is stored with the user as its prefix. A key that a storage may not accept is stored as its
hash.
"""

from __future__ import annotations

from collective.taskqueue.enqueue.fields import FIELDS
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Task
from hashlib import sha256


#: Most characters of a key that is stored unhashed: its prefix needs room, too.
MAX_STORED = 200

#: Replaces the user in the prefix if Anonymous adds the task.
ANONYMOUS = "0" * 32


def own_key(user: Identity | None, key: object) -> str:
    """Return the key under which tasks of this user are the same work.

    Without the user in it, a client could skip or replace tasks of another user. Raises
    `InvalidTask`. Called for every key that a client gives.
    """
    longest = FIELDS["key"].longest
    if not isinstance(key, str) or not 1 <= len(key) <= longest:
        raise InvalidTask("key", f"key is a text of at most {longest} characters")
    if len(key) <= MAX_STORED and key.isprintable():
        return f"{_stored_prefix(user)}{key}"
    return f"{_hashed_prefix(user)}{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"


def shown_key(task: Task) -> str | None:
    """Return the key of a task as its client has given it, or the hash of that key.

    The key of a task that was not added by a client is returned unchanged, whatever it is.
    """
    if task.key is None:
        return None
    hashed = _hashed_prefix(task.user)
    if task.key.startswith(hashed):
        return f"sha256:{task.key.removeprefix(hashed)}"
    return task.key.removeprefix(_stored_prefix(task.user))


def _stored_prefix(user: Identity | None) -> str:
    return f"rest {_person(user)} "


def _hashed_prefix(user: Identity | None) -> str:
    return f"rest {_person(user)}# "


def _person(user: Identity | None) -> str:
    return ANONYMOUS if user is None else user.person
