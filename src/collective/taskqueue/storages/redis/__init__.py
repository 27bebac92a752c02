"""A queue on a Redis or Valkey server.

``storage.py`` is the contract and tells the keys. ``connection.py`` holds the sockets,
``script.py`` calls ``queue.lua``, which carries out each transition in one atomic call.
``admin.py`` is what people look at and steer.
"""

from collective.taskqueue.storages.redis.storage import RedisStorage


__all__ = ["RedisStorage"]
