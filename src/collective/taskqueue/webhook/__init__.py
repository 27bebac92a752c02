"""Web hooks: one task as one HTTP call to a remote server.

``client.py`` decides what is sent, where redirects lead, and what an answer means.
``transport.py`` sends one request over one connection, which another thread can cut.
``guard.py`` decides which addresses may be called, ``signing.py`` signs the call, so that the
remote server can verify the sender.
"""
