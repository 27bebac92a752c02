"""A queue in SQLite or PostgreSQL; ``dialects/`` has what differs between the two.

``storage.py`` implements the contract with objects that it composes. A task passes ``batches.py``
with ``promote.py``, ``claim.py`` and ``completions.py``; a lost one ``recover.py``, a deleted one
``retention.py``. ``aftermath.py`` has what follows a transaction: ``statistics.py`` counts,
``wakeup.py`` wakes consumers. ``session.py`` connects, ``calls.py`` makes calls repeatable,
``schema.py`` and ``migrations.py`` have the tables, ``statements.py``, ``complete.py`` and
``states.py`` the statements, ``transitions.py`` what many of these share. ``admin.py``,
``pages.py``, ``search.py``, ``candidates.py``, ``changes.py``, ``rows.py`` and ``counters.py``
serve the admin, ``damage.py`` and ``repairs.py`` handle damaged rows.
"""

from collective.taskqueue.storages.sql.storage import SqlStorage


__all__ = ["SqlStorage"]
