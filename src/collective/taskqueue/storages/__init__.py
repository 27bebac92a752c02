"""Where tasks wait and what is known of them: one folder for each kind of storage.

``local/`` is the memory of this process, ``redis/`` a Redis or Valkey server, ``sql/`` SQLite or
PostgreSQL. Each can be read alone. They share ``codec.py`` (the wire form of tasks and answers),
``processes.py`` (whose process is alive), ``urls.py`` and ``secrets.py`` (urls, and what is never
shown of them) and ``notifier.py`` (what has happened to other tasks in a call).
"""
