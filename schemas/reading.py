"""What arrives on `vitals.readings`: readings and stay events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec

READING_V1: Final = "vitals.reading.v1"
STAY_EVENT_V1: Final = "vitals.stay-event.v1"

StayId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Timestamp = Annotated[datetime, msgspec.Meta(tz=True)]  # RFC 3339 with an offset
Quality = Literal["good", "questionable", "invalid"]


class Observations(msgspec.Struct, frozen=True, kw_only=True):
    """What a nurse charts beside the monitor: inputs of NEWS2 (Royal College of Physicians 2017)."""

    consciousness: Literal["A", "C", "V", "P", "U"] | None = None
    oxygen: Literal["air", "supplemental"] | None = None


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a monitor: values by signal name at one time. None = not observed."""

    schema: Literal["vitals.reading.v1"] = READING_V1
    stay_id: StayId
    observed_at: Timestamp
    vitals: dict[str, float | None]
    device_id: str | None = None
    care_unit: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    units: dict[str, str | None] | None = None
    quality: dict[str, str | None] | None = None
    observations: Observations | None = None


class LimitRange(msgspec.Struct, frozen=True, kw_only=True):
    """Alert limits of one signal: None = no limit on that side, absent = the care unit's limit stays."""

    low: float | msgspec.UnsetType | None = msgspec.UNSET
    high: float | msgspec.UnsetType | None = msgspec.UNSET


class StayEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a stay, in the order of its readings: it ended, or its alert limits or NEWS2 scale were set."""

    schema: Literal["vitals.stay-event.v1"]
    stay_id: StayId
    at: Timestamp
    event: Literal["ended", "limits", "settings"]
    limits: dict[str, LimitRange] | None = None
    spo2_scale: Literal[1, 2] | None = None
