"""Schedules: tasks that are queued at times, each time once, however many processes there are.

``timing.py`` computes the ticks of a schedule, the times at which it is due. ``ticker.py`` is the
thread of a process that queues a task for each tick: the storage lets the first process do it.
``due.py`` decides which of the ticks that are due is made up for.
"""
