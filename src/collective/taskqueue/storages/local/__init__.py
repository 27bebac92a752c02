"""A queue in the memory of this process, lost at a restart.

``storage.py`` is the contract; ``board.py`` has the tasks by state, ``record.py`` what is known of
one, ``indexes.py`` the order of those that wait or have ended, also by person; ``admin.py`` is what
people look at and steer.
"""

from collective.taskqueue.storages.local.storage import LocalStorage


__all__ = ["LocalStorage"]
