Queues and consumers can be configured by the environment (``TASKQUEUE_URL``, ``TASKQUEUE_CONSUMERS`` and others, with
``_FILE`` for secrets in files), so that one image is a web server and a worker, and by
``<product-config collective.taskqueue>``, for tools that write no other sections.
