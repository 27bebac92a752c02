"""The command line: ``taskqueue COMMAND``, without Zope and without opening the ZODB.

``main.py`` has the list of commands; each is imported when it is called. ``exits.py`` has the exit
codes, ``settings.py`` reads the configuration, ``queues.py`` opens the storages. A command is a
module: ``stats.py``, ``tasks.py``, ``show.py``, ``change.py`` (retry, cancel, remove),
``steer.py`` (pause, resume, purge, reset), ``consumers.py``, ``add.py``, ``check.py``,
``schema.py`` (schema, migrate), ``completion.py``. ``selection.py`` finds the tasks of a filter
and changes them in pages. ``document.py`` is what ``--json`` prints; ``table.py`` and ``words.py``
are what people read.
"""
