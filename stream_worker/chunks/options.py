"""How the transport, its recovery too, reaches the broker, and what ends the worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_FETCH_BYTES: Final = 2 << 20  # of a partition
# In any mode: a worker that wrote in transactions may have left one that was aborted, and so may any sender.
ISOLATION_LEVEL: Final = "read_committed"


class WorkerError(Exception):
    """The worker cannot start or go on; the message is one line for the user."""


@dataclass(frozen=True, kw_only=True)
class ChunkOptions:
    """How the transport reaches the broker and what it tells its owner."""

    config: Mapping[str, Any]  # addresses and security, as aiokafka takes them
    exactly_once: bool
    session_timeout_s: float
    chunk_records: int
    instance_id: str | None
    on_failure: Callable[[BaseException], None]
    on_assigned: Callable[[frozenset[int]], None]
    on_revoked: Callable[[], None]
