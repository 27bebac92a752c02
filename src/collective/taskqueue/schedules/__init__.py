"""Schedules: tasks that are queued at times, each time once, however many processes there are.

``config/timing.py`` computes the ticks of a schedule, the times at which it is due. ``due.py``
decides which ticks are made up for. ``job.py`` makes the task of a tick, ``ticker.py`` is the
thread of a process that queues it: the storage lets the first process do so. ``listing.py`` shows
schedules to people, who can pause and resume them.
"""
