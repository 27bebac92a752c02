"""Web hooks: one task as one HTTP call to a remote server.

``client.py`` makes the call, ``guard.py`` decides which addresses may be called, ``signing.py``
signs the call, so that the remote server can verify the sender.
"""
