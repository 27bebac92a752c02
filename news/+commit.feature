A task is a call of a view that runs if and only if the transaction that queued the task commits; the call runs as the
user who queued the task.
