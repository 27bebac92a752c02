Your code delays, retries, deduplicates, cancels and follows tasks, limits their time, reads their results, and subscribes
to events that tell of each change.
