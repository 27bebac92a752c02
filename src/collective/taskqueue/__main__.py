"""``python -m collective.taskqueue``: the command line, see `cli`."""

from __future__ import annotations

from collective.taskqueue.cli.main import main


if __name__ == "__main__":
    main()
