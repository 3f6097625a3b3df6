"""What leaves on `vitals.dead-letters`."""

from __future__ import annotations

from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

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
    """A record that left no forecast, and why."""

    schema: Literal["vitals.dead-letter.v1"] = DEAD_LETTER_V1
    reason: Annotated[
        Reason,
        Meta(description="The first that fits: too_large, malformed, schema, future, empty, late."),
    ]
    detail: Annotated[str, Meta(description="For people; quotes nothing from the record.")]
    source: Annotated[Source, Meta(description="Where the record is.")]
    received_at: Annotated[Timestamp, Meta(description="When the worker received it, by its clock.")]
    payload_sha256: Annotated[str, Meta(description="Hash of the record's value, in hex digits.")]
    payload: Annotated[
        str | None,
        Meta(description="The record's value in base64, patient data included; only with `dead_letter_payload`."),
    ] = None
