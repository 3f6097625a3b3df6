"""A thread beside the main one that does not fail unnoticed."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Beside(threading.Thread):
    """Runs `work` once it is started, and does not keep the process alive. `fault` is what that failed with."""

    def __init__(self, name: str, work: Callable[[], None], on_fault: Callable[[], None] = lambda: None) -> None:
        """`on_fault` is called after a fault, in this thread."""
        super().__init__(name=name, daemon=True)
        self._work, self._on_fault = work, on_fault
        self.fault: Exception | None = None

    def run(self) -> None:
        """Called by `start`."""
        try:
            self._work()
        except Exception as error:
            self.fault = error
            self._on_fault()
