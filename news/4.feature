Queues on a Redis or Valkey server, ``type redis``: shared by many processes, committed together with the
ZODB, and recovered when a process dies.
