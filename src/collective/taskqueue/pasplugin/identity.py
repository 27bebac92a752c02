"""The identity of a user: the user id, the user folder, and the generation of that id.

When a user is deleted, the user folder increments the *generation* of the id in the transaction
of the deletion: the next user of the same id is another one. A task carries the generation of the
user that queued it. So the next user never inherits tasks or responses, whichever process dies or
restarts in between.
"""

from __future__ import annotations

from Acquisition import aq_base
from Acquisition import aq_inner
from Acquisition import aq_parent
from BTrees.OIBTree import OIBTree
from collective.taskqueue.task import Identity
from functools import lru_cache
from Products.PluggableAuthService.interfaces.authservice import IPluggableAuthService
from typing import Any


#: Attribute of a user folder: user id → generation, for ids that had an earlier user.
GENERATIONS = "_taskqueue_generations"


def identity_of(user: Any) -> Identity | None:
    """Return the identity of a user object in its user folder; None if it has no id or folder."""
    folder, user_id = aq_parent(aq_inner(user)), user.getId()
    if user_id is None or not hasattr(folder, "getPhysicalPath"):
        return None
    return identity_in(folder, user_id)


def identity_in(folder: IPluggableAuthService, user_id: str) -> Identity:
    """Return the identity of the user that has this id in the user folder now."""
    path = "/".join(folder.getPhysicalPath())
    return _identity(path, user_id, generation_in(folder, user_id))


def generation_in(folder: Any, user_id: str) -> int:
    """Return how many users had this id in the user folder before the one that has it now."""
    generations = getattr(aq_base(folder), GENERATIONS, None)
    return 0 if generations is None else generations.get(user_id, 0)


# Cached: one object for all tasks of a user.
_identity = lru_cache(maxsize=1000, typed=True)(Identity)


def begin_generation(folder: IPluggableAuthService, deleted: Identity) -> None:
    """Increment the generation of the id, so that its next user is another one."""
    base = aq_base(folder)
    if getattr(base, GENERATIONS, None) is None:
        # A BTree and no class of this package: the folder can be read without this package.
        setattr(base, GENERATIONS, OIBTree())
    getattr(base, GENERATIONS)[deleted.id] = deleted.generation + 1
