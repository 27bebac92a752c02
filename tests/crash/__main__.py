"""More than a thousand crashes; the totals of each kind are printed."""

from __future__ import annotations

from crash import run
import sys


RUNS = [
    ("enqueue", "--database", "file_storage", "--injections", 700),
    ("enqueue", "--database", "zeo", "--injections", 400),
    ("consume", "--kills", 200),
    ("consume", "--stream", "--kills", 200),
    ("enqueue", "--storage", "sqlite", "--injections", 300),
    ("enqueue", "--storage", "postgresql", "--injections", 300),
    ("consume", "--storage", "sqlite", "--kills", 60),
    ("consume", "--storage", "postgresql", "--kills", 60),
    ("outage", "--rounds", 4),
    *(
        ("exactly", "--database", database, "--storage", storage, "--injections", 120)
        for database in ("file_storage", "zeo", "rel_storage")
        for storage in ("redis", "sqlite", "postgresql")
    ),
]


def main() -> None:
    """Run all; an error if one finds a violation."""
    for module, *options in RUNS:
        totals = run(module, *options)
        print(module, *options, "→", totals, flush=True)


if __name__ == "__main__":
    sys.exit(main())
