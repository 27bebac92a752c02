``taskqueue.add("https://example.org/hook")`` queues a web hook: a call of another server, made after the
commit, tried again if it fails, signed if the queue has a ``secret``, and never sent to a private address
unless ``allow_hosts`` of the queue lists it.
