"""What leaves on `vitals.alerts`: alerts and heartbeats. Consumers select by `schema`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from schemas.forecast import Source
from schemas.reading import Timestamp

ALERT_V1: Final = "vitals.alert.v1"
HEARTBEAT_V1: Final = "vitals.heartbeat.v1"

AlertState = Literal["raised", "updated", "cleared"]
Kind = Literal["limit", "forecast_limit", "anomaly", "technical", "news2"]
Side = Literal["low", "high"]
Cause = Literal["sensor_off", "flatline", "implausible", "disagreement", "no_data"]
Priority = Literal["high", "medium", "low", "info"]  # PH, PM, PL, PN of IHE PCD-04
ClearReason = Literal["recovered", "data_lost", "stay_ended", "superseded"]


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of one alert. Everything but produced_at is a function of the readings."""

    schema: Literal["vitals.alert.v1"] = ALERT_V1
    alert_id: Annotated[
        str, Meta(description="The same in all revisions; begins with the place of the reading that raised it.")
    ]
    revision: Annotated[int, Meta(description="0, 1, 2 ... without gaps; `cleared` is the last.")]
    state: Annotated[AlertState, Meta(description="The alert is open until it is cleared.")]
    stay_id: Annotated[str, Meta(description="As in the reading; also the record's key.")]
    care_unit: Annotated[str | None, Meta(description="The last one that the stay's readings named.")] = None
    kind: Annotated[
        Kind,
        Meta(description="limit: the value is beyond it. forecast_limit: it is likely to be, within the hour."),
    ]
    signal: Annotated[str | None, Meta(description="What it is about; null: the whole stay.")] = None
    side: Annotated[Side | None, Meta(description="Of the limit; null for other kinds.")] = None
    cause: Annotated[Cause | None, Meta(description="Of a technical alert; null for other kinds.")] = None
    priority: Annotated[Priority, Meta(description="PH, PM, PL, PN of IHE PCD-04. It may rise but never falls.")]
    since: Annotated[Timestamp, Meta(description="When the condition began.")]
    event_at: Annotated[
        Timestamp,
        Meta(
            description="observed_at of the reading, or `at` of the stay event, that caused this revision; for no_data "
            "and for an end by silence, when the silence had lasted too long."
        ),
    ]
    produced_at: Annotated[Timestamp, Meta(description="When the worker wrote it, by its clock.")]
    message: Annotated[str, Meta(description="An English sentence made from message_key and message_params alone.")]
    message_key: Annotated[str, Meta(description="Which sentence: docs/alerts.md, `What an alert says`.")]
    message_params: Annotated[dict[str, Any], Meta(description="All that the sentence needs, in any language.")] = {}
    evidence: Annotated[
        dict[str, Any], Meta(description="What it rests on, by kind: docs/alerts.md. May be empty when `cleared`.")
    ] = {}
    clear_reason: Annotated[
        ClearReason | None,
        Meta(description="For `cleared`. superseded: the announced event came, or is announced anew (superseded_by)."),
    ] = None
    superseded_by: Annotated[str | None, Meta(description="For superseded: the alert_id that takes its place.")] = None
    lead_time_s: Annotated[
        float | None,
        Meta(description="For an announcement that came true: seconds from when it was raised to the crossing."),
    ] = None
    source: Annotated[
        Source, Meta(description="The record that caused this revision; for a timer, the stay's last reading.")
    ]


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """Says that a partition is being worked on, so that a silent topic is not mistaken for a calm ward."""

    schema: Literal["vitals.heartbeat.v1"] = HEARTBEAT_V1
    partition: Annotated[int, Meta(description="Partition of the readings, and of this record's topic.")]
    produced_at: Annotated[Timestamp, Meta(description="By the worker's clock; one comes every `heartbeat_s`.")]
    newest_observed_at: Annotated[
        Timestamp | None, Meta(description="Newest observed_at in the partition; null before its first.")
    ] = None
    state: Annotated[Literal["running", "stopping"], Meta(description="stopping: another worker has to take over.")]
