"""What all storages share that search for tasks: the limits, and the cursors of pages.

A cursor is the number of the last task that was examined, with a digest of the place and the
filter that it belongs to. Numbers grow in the order in which tasks were added.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from base64 import urlsafe_b64encode
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.task import TaskFilter
from hashlib import blake2b
import struct


#: Most tasks that one call examines.
SCAN = 1000

#: Most tasks that one call changes.
CHANGES = 100

#: All numbers of tasks are larger.
FIRST = -(2**62)

_NUMBER = struct.Struct(">q")


def cursor_at(number: int, place: str, filter: TaskFilter) -> str:
    """Return the cursor of a page that ends with the task of this number.

    `place` is a text that differs for queues whose numbers have nothing to do with each other.
    """
    data = _NUMBER.pack(number)
    return urlsafe_b64encode(data + _digest(data, place, filter)).decode().rstrip("=")


def number_at(cursor: str | None, place: str, filter: TaskFilter) -> int:
    """Return the number of the last task of the page before; `FIRST` without a cursor.

    Raises `InvalidTask` for a cursor of another list or filter, and for a text that is no cursor.
    """
    if cursor is None:
        return FIRST
    try:
        data = urlsafe_b64decode(cursor.encode("ascii") + b"==")
    except (ValueError, AttributeError):
        data = b""
    head = data[: _NUMBER.size]
    # Compare the text: more than one text is decoded to the same bytes.
    if len(head) == _NUMBER.size:
        [number] = _NUMBER.unpack(head)
        if cursor == cursor_at(number, place, filter):
            return int(number)
    raise InvalidTask(
        "cursor",
        "no page of this search had this cursor; leave it out to begin with the oldest task",
    )


def _digest(data: bytes, place: str, filter: TaskFilter) -> bytes:
    named = repr((place, filter)).encode("utf-8", "surrogatepass")
    return blake2b(named, key=data, digest_size=10).digest()
