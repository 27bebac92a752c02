Queues are stored in the memory of the process, in Redis or Valkey, in SQLite or in PostgreSQL; in all but the first,
committed tasks survive the death of any process.
