"""Ctrl-C and SIGTERM as an event, so that a command ends in order instead of wherever it happens to be."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType


def nothing_in_hand() -> None:
    """Until others handle the signals: Ctrl-C and SIGTERM end the process at once, with exit code 0, and SIGHUP waits.

    For a start that takes seconds, nearly all of them in imports. By default SIGHUP would end it, and torch takes the
    KeyboardInterrupt for a sign that there is no numpy, and goes on with half of it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: os._exit(0))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def take_hang_ups() -> None:
    """SIGHUP is handled from now on; one that has waited too. To be called by the main thread."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


@contextmanager
def stop_after(seconds: float | None, stop: threading.Event) -> Iterator[None]:
    """Set `stop` when so many seconds are over; never for None."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, stop.set)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def stop_on_signals(*, second_interrupts: bool = True) -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and a closed terminal set.

    The second such signal raises KeyboardInterrupt, for users who do not want to wait for a broker that is gone;
    without `second_interrupts` it changes nothing.
    """
    stop = threading.Event()
    asked: SimpleQueue[bool] = SimpleQueue()  # False: nobody has, and it is over
    was_asked = False

    def set_when_asked() -> None:
        if asked.get():
            stop.set()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal was_asked
        if was_asked and second_interrupts:
            raise KeyboardInterrupt
        was_asked = True
        # Not `stop.set()`: the handler may have interrupted this thread in `stop.wait`, which holds the event's lock.
        asked.put(True)

    threading.Thread(target=set_when_asked, name="stop", daemon=True).start()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield stop
    finally:
        for number, action in before.items():
            signal.signal(number, action)
        asked.put(False)
