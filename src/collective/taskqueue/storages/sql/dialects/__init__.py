"""All that differs between the databases of a SQL queue.

``dialect.py`` has the protocol, and finds the dialect of a url. ``sqlite.py`` uses ``forks.py``
(no connection crosses a fork) and ``mounts.py`` (no file on a network). ``postgresql.py`` uses
``driver.py``, which sets a deadline for answers.
"""
