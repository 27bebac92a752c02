"""Publishes one task as one request of ZPublisher.

``request.py`` makes the request and publishes it. ``target.py``, ``address.py`` and ``resolve.py``
find what the url of a task refers to, and where that is now; ``traversal.py`` checks each step.
``answer.py`` and ``redirects.py`` make an outcome of the response, ``accesslog.py`` logs it.
``slot.py`` adds an object to the transaction, which shows later that it was committed;
``place.py`` finds out whether such an object is there.
"""
