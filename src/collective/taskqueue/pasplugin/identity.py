"""Who a user is: an id, its user folder, and which of all who ever had that id.

When a user is deleted, the user folder remembers that the next one of the same id is somebody
else: its *generation* grows, in the transaction of the deletion. A task carries the generation
of who queued it. So tasks and their responses are not inherited, whatever dies or is restarted
in between.
"""

from __future__ import annotations

from Acquisition import aq_base
from Acquisition import aq_inner
from Acquisition import aq_parent
from BTrees.OIBTree import OIBTree
from collective.taskqueue.task import Identity
from functools import lru_cache
from typing import Any


#: Attribute of a user folder: user id → generation, for those that are not the first.
GENERATIONS = "_taskqueue_generations"


def identity_of(user: Any) -> Identity | None:
    """Return the identity of a user object in its user folder; None if it has no id or folder."""
    folder, user_id = aq_parent(aq_inner(user)), user.getId()
    if user_id is None or not hasattr(folder, "getPhysicalPath"):
        return None
    return identity_in(folder, user_id)


def identity_in(folder: Any, user_id: str) -> Identity:
    """Return the identity of who has that id in the user folder now."""
    generations = getattr(aq_base(folder), GENERATIONS, None) or {}
    return _identity("/".join(folder.getPhysicalPath()), user_id, generations.get(user_id, 0))


# Made once for all tasks of a person.
_identity = lru_cache(maxsize=1000, typed=True)(Identity)


def begin_generation(folder: Any, deleted: Identity) -> None:
    """Let the next user of that id in the user folder be somebody else."""
    base = aq_base(folder)
    if getattr(base, GENERATIONS, None) is None:
        # A class of a library: the user folder can be read without this package.
        setattr(base, GENERATIONS, OIBTree())
    getattr(base, GENERATIONS)[deleted.id] = deleted.generation + 1
