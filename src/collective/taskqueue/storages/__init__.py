"""The storages of tasks and their records: one folder for each kind of storage.

``local/`` is the memory of this process, ``redis/`` a Redis or Valkey server, ``sql/`` SQLite or
PostgreSQL. Each can be read alone. ``factory.py`` makes the storage of a queue. They share
``codec.py`` (the stored form of tasks and responses), ``processes.py`` (which processes are
alive), ``urls.py`` (checks of urls), ``secrets.py`` (masks passwords), ``notifier.py`` (events of
other tasks in a call), ``outage.py`` (logs outages) and ``search.py`` (limits and cursors of
searches).
"""
