"""What happens until a task is queued.

``capture.py`` makes a task of what the caller says and of the current request, with ``options.py``,
``params.py``, ``headers.py``, ``hosts.py``, ``language.py`` and ``credentials.py``.
``datamanager.py`` stages it when the transaction commits and promotes it afterwards.
``outbox.py`` does later what could not be done at once, ``indoubt.py`` asks the database what
became of a lost transaction. ``deleted_users.py`` cancels what deleted users had queued.
"""
