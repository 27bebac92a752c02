"""The call that a web hook makes, with requests: what the workers of the peers run."""

import requests
import threading


_local = threading.local()


def post(url: str) -> int:
    """Call a web hook; connections are reused, which ours are not."""
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
    status: int = _local.session.post(url, data=b"{}", timeout=60).status_code
    return status
