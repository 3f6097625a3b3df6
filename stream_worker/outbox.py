"""Where replay and simulator put their readings: Kafka in production, a list in tests."""

from __future__ import annotations

from typing import Protocol


class Outbox(Protocol):
    """Takes encoded records, in order for each stay, and counts what became of them."""

    sent: int
    failed: int

    def send(self, stay_id: str, record: bytes) -> None:
        """Queue one record; may block."""

    def flush(self) -> None:
        """Return once every record queued is delivered or counted as failed."""
