``taskqueue.search`` finds tasks by state, url, user, time and reason, and ``taskqueue.bulk`` retries, cancels or removes
all that match. So do ``GET /@tasks`` and ``POST /@tasks/bulk``.
