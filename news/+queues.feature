One consumer may serve several queues in strict order: ``queues important normal low`` in ``<taskqueue-server>``.
