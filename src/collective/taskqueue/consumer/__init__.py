"""Runs queued tasks.

``consumer.py`` takes tasks, runs them and reports the results: by ``calls.py``, the calls to the
storage, which ``batcher.py`` batches. ``heartbeat.py`` renews leases and enforces timeouts.
``redelivery.py`` finds out whether a lost process had committed a task. ``attempt.py`` is one
dispatch, which ``interrupt.py`` can end; ``policy.py`` decides the next transition, ``ending.py``
logs it, ``tally.py`` counts it, ``events.py`` publishes events, with a status that ``history.py``
takes back to the change. ``response.py`` and ``text.py`` bound what is kept, ``shutdown.py`` is the
deadline. ``pulse.py`` tells whether the threads work, ``order.py`` is the order of several queues.
"""
