"""Everything that happens until a task is queued.

``capture.py`` makes a task of the caller's arguments and the current request, with ``options.py``,
``author.py``, ``params.py``, ``headers.py``, ``hosts.py``, ``language.py`` and ``credentials.py``;
``fields.py`` is the table of what a caller can say, ``protocols.py`` has the types of a queue.
``datamanager.py`` stages the task when the transaction commits and promotes it afterwards.
``outbox.py`` finishes later what could not be done at once, ``indoubt.py`` asks the database how a
lost transaction has ended. ``deleted_users.py`` cancels the tasks of deleted users.
"""
