``taskqueue.add("/Plone/path/to/view")`` queues a request that is made after, and only if, the current
transaction commits. It runs as the person who queued it, through ZPublisher's front door, and its
``absolute_url()`` is what it was where it was queued.
