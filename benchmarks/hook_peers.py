"""What the workers of Celery and RQ import: the call that a web hook makes, with requests."""

from celery import Celery
import os
import requests
import threading


_local = threading.local()

celery = Celery("bench", broker=f"redis+socket://{os.environ.get('BENCH_REDIS', '')}")


def post(url: str) -> int:
    """Call a web hook; connections are reused, as ours are."""
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
    status: int = _local.session.post(url, data=b"{}", timeout=60).status_code
    return status


celery_post = celery.task(ignore_result=True, name="post")(post)
