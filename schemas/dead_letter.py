"""What leaves on `vitals.dead-letters`."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

from schemas.forecast import Source
from schemas.reading import Timestamp

DEAD_LETTER_V1: Final = "vitals.dead-letter.v1"

# In the order in which they are tried: a record gets the first that fits.
Reason = Literal["too_large", "malformed", "schema", "future", "empty", "late"]


class Rejection(NamedTuple):
    """Why a record leaves no forecast; `detail` quotes nothing of it."""

    reason: Reason
    detail: str


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A record that left no forecast, and why. `detail` never quotes the record; `payload` is base64, opt-in."""

    schema: Literal["vitals.dead-letter.v1"] = DEAD_LETTER_V1
    reason: Reason
    detail: str
    source: Source
    received_at: Timestamp
    payload_sha256: str
    payload: str | None = None
