"""What the workers of Celery import."""

from benchmarks.hook_call import post
from celery import Celery
import os


celery = Celery("bench", broker=f"redis+socket://{os.environ.get('BENCH_REDIS', '')}")

celery_post = celery.task(ignore_result=True, name="post")(post)
