"""Where the Faust table keeps the stays: in columns, loaded from the changelog in bulk."""

from __future__ import annotations

import ctypes
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

import structlog

from stream_worker.chunks import BulkStore
from stream_worker.stays import SCORING, Stays

log = structlog.get_logger("vitalcast")

# Partitions, seconds it took, and of those whose state cannot be used the keys that hold it.
Recovered = Callable[[frozenset[int], float, Mapping[int, Collection[bytes]]], None]


class StayStore(BulkStore):
    """The Faust table's store: the stays' columns, and beside them those of a shadow model."""

    def __init__(self, app: Any, table: Any, stays: Stays, shadow_stays: Stays | None, on_recovered: Recovered) -> None:
        super().__init__("memory://", app, table)
        self.stays = stays
        self.shadow_stays = shadow_stays
        self._on_recovered = on_recovered
        self._newest: defaultdict[int, dict[bytes, bytes]] = defaultdict(dict)

    @property
    def positions(self) -> dict[int, int]:
        """The input offset by partition before which all records are in the state."""
        return self.stays.next_offsets

    @property
    def topics(self) -> dict[int, str]:
        """The input topic by partition that the state was made from, where that is known."""
        return self.stays.topics

    def forget_all(self) -> None:
        """Drop the state of every partition."""
        self._newest.clear()
        self.stays.forget_all()
        if self.shadow_stays is not None:
            self.shadow_stays.forget_all()

    def load(self, partition: int, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Keep the newest record of each key; they are joined once all are there."""
        newest = self._newest[partition]
        for key, value in records:
            if value is None:
                newest.pop(key, None)
            else:
                newest[key] = value

    def on_loaded(self, partitions: frozenset[int], seconds: float) -> None:
        """Join heads and bodies."""
        began = time.monotonic()
        void: dict[int, Collection[bytes]] = {}
        for partition in list(self._newest):
            newest = self._newest.pop(partition)
            unusable = self.stays.load(partition, newest)
            if self.shadow_stays is not None:  # it begins from the same windows; scores are the live model's own
                own = {key: value for key, value in newest.items() if not key.startswith(SCORING)}
                self.shadow_stays.load(partition, own)
            if unusable:  # of another version, or of a model with other signals: the readings tell what it was
                log.warning("state_unusable", partition=partition, stays=unusable)
                void[partition] = tuple(newest)
                self.stays.forget(partition)
                if self.shadow_stays is not None:
                    self.shadow_stays.forget(partition)
        _give_back_memory()
        self._on_recovered(partitions, seconds + time.monotonic() - began, void)  # joining takes longer than reading


def _give_back_memory() -> None:
    """Return the joined records' memory to the system: glibc would keep 5 kB a stay. Elsewhere it is as it is."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
