"""Readings that keep coming while something happens to the workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Final, Self

from tests.kafka_client import produce

SLICE_S: Final = 0.25


class Feed:
    """Sends `records` in order, `per_s` of them a second, in a thread of its own; left, what remains at once.

    So it may be slow enough to last for longer than whatever happens meanwhile, on any machine.
    """

    def __init__(self, servers: str, topic: str, records: Sequence[tuple[str, Any]], per_s: int) -> None:
        self._servers, self._topic, self._records = servers, topic, records
        self._slice = max(1, round(per_s * SLICE_S))
        self._sent = 0
        self._is_left = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._is_left.set()
            self._thread.join()
            if self._error is not None:
                raise self._error

    @property
    def goes_on(self) -> bool:
        """Whether some of the records were not sent yet."""
        return self._sent < len(self._records)

    def _run(self) -> None:
        try:
            while self.goes_on:
                next_at = time.monotonic() + SLICE_S
                end = len(self._records) if self._is_left.is_set() else self._sent + self._slice
                produce(self._servers, self._topic, self._records[self._sent : end])
                self._sent = end
                self._is_left.wait(max(0.0, next_at - time.monotonic()))
        except BaseException as error:
            self._error = error
