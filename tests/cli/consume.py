"""A process that runs the tasks of the queue `default` of a zope.conf, without Zope.

A task fails if its url has the word fail in it. Each id is written to a file when it has run.
"""

from collective.taskqueue.cli.settings import read
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.consumer.policy import classify
from collective.taskqueue.storages.factory import make_storage
from collective.taskqueue.task import Outcome
from pathlib import Path
import signal
import sys
import threading
import time


def main(conf, record):
    lock = threading.Lock()

    def perform(attempt):
        with lock, record.open("a") as file:
            file.write(f"{attempt.task.id}\n")
        status = 502 if "fail" in attempt.task.url else 200
        reason = "status 502: Bad Gateway" if status == 502 else ""
        return classify(Outcome(status, reason, started=time.time()), ())

    storage = make_storage(read(str(conf)).queues["default"])
    consumer = Consumer(storage, perform, ServerSettings(name="beside", concurrent_limit=2))
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    stopped = threading.Event()
    consumer.start()
    stopped.wait()
    consumer.stop(5.0)
    storage.close()


main(Path(sys.argv[1]), Path(sys.argv[2]))
