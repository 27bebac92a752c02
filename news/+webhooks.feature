``taskqueue.add("https://example.org/hook")`` calls another server after the commit: the call is retried if it fails, is
signed if the queue has a ``secret``, and never goes to a private address that ``allow_hosts`` does not list.
