"""Fills a board with the hours before its feed began, beside what is live: the newest hour first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Final

import msgspec
from kafka import KafkaConsumer
from kafka.structs import OffsetAndTimestamp, TopicPartition

from stream_worker import clients
from stream_worker.settings import Settings
from stream_worker.view.board import HISTORY_MIN, Board
from stream_worker.ward_feed import MAX_POLL_RECORDS, QUIET_S, take_in

HOURS: Final = HISTORY_MIN // 60
# Of each partition, whenever they were sent: recordings that were replayed fast, or a ward that is silent for long.
LEAST_RECORDS: Final = 30_000
# Four hours of 64 stays, read once a second, take about a minute. What takes longer than this leaves out older hours.
WITHIN_S: Final = 180.0

HOUR_MS: Final = 3_600_000
FLAGGED: Final = b'"flag":true'
MINUTE_LONG: Final = len("2026-11-22T10:15")

Offsets = Mapping[TopicPartition, int]


class _Glance(msgspec.Struct):
    """As much of a record as tells which minute of which stay it is of, and which signals it has."""

    stay_id: str
    observed_at: str = ""
    issued_at: str = ""
    vitals: dict[str, msgspec.Raw] = {}


_glance = msgspec.json.Decoder(_Glance).decode


def read_back(settings: Settings, board: Board, until: Offsets, stop: threading.Event) -> None:
    """Apply what the partitions hold before the offsets `until`; returns when that is done, or `stop` is set.

    One value of each signal and one forecast stand for each minute of a stay, as on the page, so that it takes a
    fraction of the time of applying them all.
    Raises: BrokerUnreachableError, KafkaError.
    """
    end = time.monotonic() + WITHIN_S
    now_ms = int(time.time() * 1000)
    with closing(clients.consumer(settings, auto_offset_reset="earliest", enable_auto_commit=False)) as consumer:
        begin = consumer.beginning_offsets(list(until))
        least = {partition: max(begin[partition], offset - LEAST_RECORDS) for partition, offset in until.items()}
        reader = _Reader(settings, consumer, board)
        for hour in range(1, HOURS + 1):
            found = consumer.offsets_for_times(dict.fromkeys(until, now_ms - hour * HOUR_MS))
            since = {partition: min(offset, _offset(found[partition], offset)) for partition, offset in until.items()}
            if hour == HOURS:
                since = {partition: min(offset, least[partition]) for partition, offset in since.items()}
            reader.read(since, until, lambda: stop.is_set() or time.monotonic() > end)
            until = since


def _offset(found: OffsetAndTimestamp | None, otherwise: int) -> int:
    """None: everything is older (or it is the embedded broker, which cannot tell)."""
    return otherwise if found is None else int(found.offset)


class _Reader:
    """Reads parts of partitions into a board, about a record for each minute of a stay."""

    def __init__(self, settings: Settings, consumer: KafkaConsumer, board: Board) -> None:
        self._settings = settings
        self._consumer = consumer
        self._board = board
        self._seen: set[tuple[str, str, str, str]] = set()

    def read(self, since: Offsets, until: Offsets, is_over: Callable[[], bool]) -> None:
        """Apply the records from `since` to before `until`."""
        left = {partition for partition, offset in until.items() if since[partition] < offset}
        self._consumer.assign(list(left))  # `pause` would do, but a partition paused half-way never comes again
        for partition in left:
            self._consumer.seek(partition, since[partition])
        heard = time.monotonic()
        while left and not is_over():
            polled = self._consumer.poll(200, max_records=MAX_POLL_RECORDS)
            for partition, records in polled.items():
                for record in records:
                    if record.offset < until[partition] and self._is_wanted(record):
                        take_in(self._board, record, self._settings)
            if done := {partition for partition in left if self._consumer.position(partition) >= until[partition]}:
                left -= done
                self._consumer.assign(list(left))
            if polled:
                heard = time.monotonic()
            elif time.monotonic() - heard > QUIET_S:
                return

    def _is_wanted(self, record: Any) -> bool:
        """Whether it is a signal's first of its minute, or not one of many: an anomaly, a stay event, what is odd."""
        if record.value is None or FLAGGED in record.value:
            return True
        try:
            glance = _glance(record.value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return True  # `take_in` will refuse it
        at = glance.observed_at or glance.issued_at
        signals = [name for name, value in glance.vitals.items() if bytes(value) != b"null"] or [""]
        new = {(record.topic, glance.stay_id, at[:MINUTE_LONG], signal) for signal in signals} - self._seen
        self._seen |= new
        return not at or bool(new)
