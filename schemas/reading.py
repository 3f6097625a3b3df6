"""What arrives on `vitals.readings`: readings and stay events.

The descriptions of fields, here and in the other records, are for those who have the published JSON Schemas only.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

READING_V1: Final = "vitals.reading.v1"
STAY_EVENT_V1: Final = "vitals.stay-event.v1"

StayId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        description="One stay of one patient, to which state, forecasts and alerts belong.",
    ),
]
Timestamp = Annotated[datetime, Meta(tz=True)]  # RFC 3339 with an offset


class Observations(msgspec.Struct, frozen=True, kw_only=True):
    """What a nurse charts beside the monitor: inputs of NEWS2 (Royal College of Physicians 2017)."""

    consciousness: Annotated[
        Literal["A", "C", "V", "P", "U"] | None,
        Meta(description="Alert, new confusion, responds to voice, to pain, unresponsive."),
    ] = None
    oxygen: Annotated[Literal["air", "supplemental"] | None, Meta(description="What the patient breathes.")] = None


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a monitor: values by signal name at one time. None = not observed."""

    schema: Literal["vitals.reading.v1"] = READING_V1
    stay_id: StayId
    observed_at: Annotated[Timestamp, Meta(description="When the values were measured, by the sender's clock.")]
    vitals: Annotated[
        dict[str, float | None],
        Meta(description="Values by signal, in its own unit or that in `units`. Absent or null: not observed."),
    ]
    device_id: Annotated[
        str | None, Meta(description="Tells apart devices that measure at the same time; not used otherwise.")
    ] = None
    care_unit: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="The unit whose alert limits apply, until a later reading names another."),
    ] = None
    units: Annotated[
        dict[str, str | None] | None,
        Meta(description="UCUM units of values not in the signal's own unit. A value in an unknown unit is ignored."),
    ] = None
    quality: Annotated[
        dict[str, str | None] | None,
        Meta(description="good, or questionable (starts no alert). With any other word the value is ignored."),
    ] = None
    observations: Annotated[
        Observations | None, Meta(description="Used only if the reading has a usable value too.")
    ] = None


class LimitRange(msgspec.Struct, frozen=True, kw_only=True):
    """Alert limits of one signal: None = no limit on that side, absent = the care unit's limit stays."""

    low: Annotated[
        float | msgspec.UnsetType | None,
        Meta(description="In the signal's unit and plausible range, below `high`."),
    ] = msgspec.UNSET
    high: Annotated[
        float | msgspec.UnsetType | None, Meta(description="As `low`. Severe limits give way to mild ones beyond them.")
    ] = msgspec.UNSET


class StayEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a stay, in the order of its readings: it ended, or its alert limits or NEWS2 scale were set."""

    schema: Literal["vitals.stay-event.v1"]
    stay_id: StayId
    at: Annotated[
        Timestamp, Meta(description="When it happened. It takes effect at its place among the stay's records.")
    ]
    event: Annotated[
        Literal["ended", "limits", "settings"],
        Meta(description="ended: alerts are cleared and the state is removed; a later reading begins the stay anew."),
    ]
    limits: Annotated[
        dict[str, LimitRange] | None,
        Meta(
            description="Of `limits`: the stay's own limits by signal, in place of what it had of that signal; {} of a "
            "signal gives it back its care unit's. Other signals keep theirs."
        ),
    ] = None
    spo2_scale: Annotated[
        Literal[1, 2] | None, Meta(description="Of `settings`: NEWS2's scale for the oxygen saturation; 1 by default.")
    ] = None
