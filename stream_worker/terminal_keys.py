"""Single keys from the terminal, without Enter and without waiting for them."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

AT_ONCE: Final = 64  # bytes read at most; nobody presses more keys between two looks


@contextmanager
def pressed_keys() -> Iterator[Callable[[], str]]:
    """A function that returns what was pressed since it was last asked; always nothing if no terminal listens here.

    Ctrl-C stays what it is. The terminal is as before when the context ends.
    """
    if not _is_ours():
        yield lambda: ""
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield lambda: _pressed(terminal)
    finally:
        with suppress(termios.error):  # the terminal was closed
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _is_ours() -> bool:
    """Whether this command is in a terminal's foreground; one that touches it from the background is stopped."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # a terminal, but not the one that controls this command
        return False


def _pressed(terminal: int) -> str:
    with suppress(OSError):  # the terminal was closed
        ready, _, _ = select.select([terminal], [], [], 0)
        return os.read(terminal, AT_ONCE).decode("ascii", "ignore") if ready else ""
    return ""
