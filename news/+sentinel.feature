A Redis queue can be a service of Redis Sentinel, ``redis+sentinel://host1,host2/service/0``: after a failover each
process logs the tasks that it had queued and that the new master does not have. Files of client certificates in a
``rediss://`` url are checked at the start.
