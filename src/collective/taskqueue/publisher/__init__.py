"""One task as one request of ZPublisher.

``request.py`` makes the request and publishes it. ``target.py``, ``address.py`` and ``resolve.py``
tell what the url of a task is about, and where that is now; ``traversal.py`` guards each step.
``answer.py`` and ``redirects.py`` make an outcome of the response, ``accesslog.py`` logs it.
"""
