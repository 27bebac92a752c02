"""Raise an exception in another thread, where it harms nothing but the task of that thread.

Python raises it between any two instructions, even where a lock has been taken and the block
that releases it is not entered yet: then the whole process waits for that lock. So the stack of
the thread is checked first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from types import FrameType
import ctypes
import dis
import sys
import threading


#: Code that holds locks, or changes what all threads share.
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

#: Functions that take a lock for their caller, or whose exceptions Python ignores.
CRITICAL_FUNCTIONS = frozenset({"__del__", "__enter__", "__exit__", "acquire", "release"})

#: Since Python 3.14, a `with` statement enters its block by these two instructions, and an
#: exception can be raised after the second one, before it is sure that the block is left again.
_LOAD_ENTER, _ENTER = dis.opmap.get("LOAD_SPECIAL"), dis.opmap["CALL"]

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = (ctypes.c_ulong, ctypes.c_void_p)
_set_async_exc.restype = ctypes.c_int


_switching = threading.Lock()

#: The switch interval in seconds to restore; None unless it is shortened.
_usual: float | None = None


@contextmanager
def short_switch_interval() -> Iterator[None]:
    """Let threads take turns as often as possible while the block runs.

    Otherwise this thread would run only where the other one blocks, perhaps on a disk, and
    that is always in critical code.
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
    """Called in a forked child: restore the interval, as the thread to do so is the parent's."""
    global _switching, _usual
    _switching = threading.Lock()
    if _usual is not None:
        sys.setswitchinterval(_usual)
        _usual = None


def raise_in(thread: int, kind: type[BaseException], base: CodeType) -> bool:
    """Raise `kind` in the thread, in code that was called by the function with code `base`.

    Returns False, and does nothing, unless the thread runs such code and an exception may
    leave all of it at once. `kind` must live as long as the process.
    """
    frame = sys._current_frames().get(thread)
    if frame is None:
        return False
    address = id(kind)
    place = frame.f_lasti
    if not _can_be_left(frame, base):
        return False
    # The thread may have run meanwhile: compare. It cannot run between the comparison and the
    # end of the call, and what it does next is to raise.
    return frame.f_lasti == place and bool(_set_async_exc(thread, address))


def raise_pending() -> None:
    """Let the exception that is pending for this thread, if any, be raised here.

    Python looks for it whenever a function begins. It must not be cleared instead: CPython
    3.11 would then look for it for ever, in every function that begins, and no traced or
    profiled function would ever begin.
    """


def _can_be_left(top: FrameType, base: CodeType) -> bool:
    frame: FrameType | None = top
    while frame is not None and frame.f_code is not base:
        module = frame.f_globals.get("__name__", "")
        if frame.f_code.co_name in CRITICAL_FUNCTIONS or _is_critical(module):
            return False
        frame = frame.f_back
    return frame is not None and frame is not top and not _enters_block(top)


def _enters_block(frame: FrameType) -> bool:
    """Return whether a `with` statement of the frame is about to take, or has taken, a lock."""
    code, place = frame.f_code.co_code, frame.f_lasti
    return place >= 2 and code[place] == _ENTER and code[place - 2] == _LOAD_ENTER


def _is_critical(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in CRITICAL_MODULES)
