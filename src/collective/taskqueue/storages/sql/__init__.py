"""A queue in SQLite or PostgreSQL; ``dialects/`` has what differs between the two.

``storage.py`` is the contract, ``session.py`` the connection, ``schema.py`` and ``migrations.py``
the tables, ``states.py``, ``statements.py`` and ``bulk.py`` what is said to the database. A task
passes ``promote.py``, ``claim.py``, ``finish.py`` with ``complete.py``, and ``transitions.py``;
``retention.py`` forgets it. ``pages.py``, ``counters.py`` and ``admin.py`` answer people,
``damage.py`` and ``repairs.py`` expect broken rows, ``wakeup.py`` wakes consumers,
``statistics.py`` counts what has ended.
"""

from collective.taskqueue.storages.sql.storage import SqlStorage


__all__ = ["SqlStorage"]
