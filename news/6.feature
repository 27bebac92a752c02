Queues in SQL databases, with ``type sql``: SQLite is durable without a server, PostgreSQL is shared by any number
of machines. They need the extras ``sql`` and ``postgresql``.
