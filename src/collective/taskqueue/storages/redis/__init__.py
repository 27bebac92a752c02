"""A queue on a Redis or Valkey server.

``storage.py`` implements the contract. ``script.py`` calls the two scripts, each call one atomic
transition: ``road.lua`` has those of the road of a task, ``lists.lua`` and ``admin.lua`` what
admins read and change, and ``common.lua`` what both need; it begins with a description of the
keys. ``wire.py`` has what goes to the scripts and comes back. ``admin.py`` has the operations of
admins, ``connection.py`` the sockets. With Redis Sentinel, ``sentinels.py`` finds the server, and
``failover.py`` tells what a new one does not have.
"""

from collective.taskqueue.storages.redis.storage import RedisStorage


__all__ = ["RedisStorage"]
