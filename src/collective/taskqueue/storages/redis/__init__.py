"""A queue on a Redis or Valkey server.

``storage.py`` implements the contract and describes the keys. ``connection.py`` holds the
sockets. ``script.py`` calls ``queue.lua``, which carries out each transition in one atomic call.
``admin.py`` has the operations of admins.
"""

from collective.taskqueue.storages.redis.storage import RedisStorage


__all__ = ["RedisStorage"]
