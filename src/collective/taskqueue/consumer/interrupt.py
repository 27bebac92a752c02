"""Raise an exception in another thread, where it harms nobody but its task.

Python raises it between any two instructions, also where a lock has been taken and the
block that gives it back is not entered yet: then the whole process waits for that lock. So
the stack of the thread is looked at first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from types import FrameType
import ctypes
import sys
import threading


#: Code that holds locks, or works on what all threads share.
CRITICAL_MODULES = (
    "ZEO",
    "ZODB",
    "_weakrefset",
    "collective.taskqueue",
    "importlib",
    "logging",
    "queue",
    "relstorage",
    "threading",
    "transaction",
    "weakref",
)

#: Functions that take a lock for their caller, or whose exceptions nobody sees.
CRITICAL_FUNCTIONS = frozenset({"__del__", "__enter__", "__exit__", "acquire", "release"})

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = (ctypes.c_ulong, ctypes.c_void_p)
_set_async_exc.restype = ctypes.c_int


_switching = threading.Lock()

#: The interval in seconds to return to, while turns are short.
_usual: float | None = None


@contextmanager
def short_turns() -> Iterator[None]:
    """Let threads take turns as often as possible while the block runs.

    Else this thread would only ever be let in where the other one waits for something, a
    disk perhaps, and that is always in critical code.
    """
    global _usual
    with _switching:
        _usual = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            yield
        finally:
            sys.setswitchinterval(_usual)
            _usual = None


def after_fork() -> None:
    """Called in a forked child: the thread that was to end the short turns is the parent's."""
    global _switching, _usual
    _switching = threading.Lock()
    if _usual is not None:
        sys.setswitchinterval(_usual)
        _usual = None


def raise_in(thread: int, kind: type[BaseException], base: CodeType) -> bool:
    """Raise `kind` in code of the thread that was called by the function with code `base`.

    Returns False, and does nothing, unless the thread runs such code and all of it can be
    left at once. `kind` must live as long as the process.
    """
    frame = sys._current_frames().get(thread)
    if frame is None:
        return False
    address = id(kind)
    place = frame.f_lasti
    if not _can_be_left(frame, base):
        return False
    # The thread may have run meanwhile. From the comparison to the end of the call it
    # cannot, and what it does next is to raise.
    return frame.f_lasti == place and bool(_set_async_exc(thread, address))


def let_strike() -> None:
    """Be struck by the exception that is still to be raised in this thread, if there is one.

    Python looks for it whenever a function begins. It must not be taken back instead:
    CPython 3.11 would look for it for ever, in every function that begins, and no function
    that is traced or profiled would ever begin.
    """


def _can_be_left(top: FrameType, base: CodeType) -> bool:
    frame: FrameType | None = top
    while frame is not None and frame.f_code is not base:
        module = frame.f_globals.get("__name__", "")
        if frame.f_code.co_name in CRITICAL_FUNCTIONS or _is_critical(module):
            return False
        frame = frame.f_back
    return frame is not None and frame is not top


def _is_critical(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in CRITICAL_MODULES)
