"""Readings that keep coming while something happens to the workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Final, Self

from tests.kafka_client import produce

SLICE_S: Final = 0.25


class Feed:
    """Sends `records` in order, `per_s` of them a second, in a thread of its own. Left, it has sent all of them."""

    def __init__(self, servers: str, topic: str, records: Sequence[tuple[str, Any]], per_s: int) -> None:
        self._servers, self._topic, self._records = servers, topic, records
        self._slice = max(1, round(per_s * SLICE_S))
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._thread.join()
            if self._error is not None:
                raise self._error

    def _run(self) -> None:
        try:
            for first in range(0, len(self._records), self._slice):
                next_at = time.monotonic() + SLICE_S
                produce(self._servers, self._topic, self._records[first : first + self._slice])
                time.sleep(max(0.0, next_at - time.monotonic()))
        except BaseException as error:
            self._error = error
