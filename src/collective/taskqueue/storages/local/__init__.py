"""A queue in the memory of this process, lost at a restart.

``storage.py`` implements the contract, ``board.py`` holds the tasks by state, ``record.py`` is one
task, ``indexes.py`` the sorted lists of waiting, running and finished tasks, also by person.
``admin.py`` has the operations of admins.
"""

from collective.taskqueue.storages.local.storage import LocalStorage


__all__ = ["LocalStorage"]
