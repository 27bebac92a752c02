"""How a supervisor starts one of its worker processes: the argument is the number of a socket."""

from __future__ import annotations

from collective.taskqueue.worker.channel import Channel
from collective.taskqueue.worker.run import run_child
import sys


if __name__ == "__main__":
    sys.exit(run_child(Channel(int(sys.argv[1]))))
