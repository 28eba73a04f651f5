"""Ctrl-C and SIGTERM, kept until a run can save."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interruptible(is_enabled: bool) -> Iterator[list[BaseException]]:
    """A list that Ctrl-C and SIGTERM put an exception into, once; the second signal has its usual effect."""
    pending: list[BaseException] = []
    if not is_enabled or threading.current_thread() is not threading.main_thread():
        yield pending
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        del frame
        restore()
        pending.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number))

    for number in usual:
        signal.signal(number, note)
    try:
        yield pending
    finally:
        restore()
