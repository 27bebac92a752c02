"""A queue in SQLite or PostgreSQL; ``dialects/`` has what differs between the two.

``storage.py`` implements the contract, ``session.py`` connects, ``schema.py`` and
``migrations.py`` have the tables, ``states.py``, ``statements.py`` and ``bulk.py`` the statements.
A task passes ``promote.py``, ``claim.py``, ``finish.py`` with ``complete.py``, and
``transitions.py``; ``retention.py`` deletes it. ``pages.py``, ``counters.py`` and ``admin.py``
serve the admin, ``damage.py`` and ``repairs.py`` handle damaged rows, ``wakeup.py`` wakes
consumers, ``statistics.py`` counts consumers and finished tasks.
"""

from collective.taskqueue.storages.sql.storage import SqlStorage


__all__ = ["SqlStorage"]
