Every task has a life that can be seen and steered: delays, retries with back-off, timeouts, keys, progress,
cancellation, results, and events that tell of each change.
