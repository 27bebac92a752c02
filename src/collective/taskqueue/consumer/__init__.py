"""What happens to a task that is queued.

``consumer.py`` takes tasks, has them run and stores what became of them. ``desk.py`` and
``clerk.py`` talk to the storage, ``heartbeat.py`` keeps leases and enforces timeouts.
``attempt.py`` is one dispatch, which ``interrupt.py`` can end; ``policy.py`` decides what follows,
``events.py`` tells subscribers. ``response.py`` and ``text.py`` bound what is kept, ``shutdown.py``
ends it all.
"""
