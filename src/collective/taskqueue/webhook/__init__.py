"""One task as one HTTP call to a server of somebody else.

``client.py`` makes the call, ``guard.py`` decides which addresses may be called, ``signing.py``
proves to the other side who calls.
"""
