"""What leaves on `vitals.forecasts`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas.reading import Timestamp

FORECAST_V1: Final = "vitals.forecast.v1"

Status = Literal["ok", "warming_up", "stale"]
QuantileRow = list[float]  # one horizon: non-decreasing along quantile_levels


class Source(msgspec.Struct, frozen=True):
    """The record that something was computed from."""

    topic: Annotated[str, Meta(description="The readings topic.")]
    partition: Annotated[int, Meta(description="Outputs go to the partition of the same number.")]
    offset: Annotated[int, Meta(description="The record's offset in its partition.")]


class ModelReference(msgspec.Struct, frozen=True):
    """The model that made a forecast."""

    name: Annotated[str, Meta(description="As in the artifact's manifest.")]
    version: Annotated[str, Meta(description="As in the artifact's manifest.")]
    sha256: Annotated[str, Meta(description="The first 12 hex digits of the hash of model.pt.")]


class SignalForecast(msgspec.Struct, frozen=True):
    """One signal, in its own unit whatever unit it was sent in."""

    last: Annotated[float, Meta(description="The newest accepted value.")]
    last_at: Annotated[Timestamp, Meta(description="When it was observed.")]
    quantiles: Annotated[
        list[QuantileRow],
        Meta(
            description="A row for each of horizons_s, a non-decreasing number for each of quantile_levels, of the "
            "signal's mean (from three readings on without the extremes) over the step that holds issued_at + horizon."
        ),
    ]


class Anomaly(msgspec.Struct, frozen=True):
    """How surprising the signal's newest value was under the forecast made before it: 0 (expected) to 1."""

    score: Annotated[float, Meta(ge=0, le=1, description="The share of normal readings that are less surprising.")]
    flag: Annotated[bool, Meta(description="Whether the score is 0.998 or more; flags that last become an alert.")]


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """The forecast that one accepted reading leaves."""

    schema: Literal["vitals.forecast.v1"] = FORECAST_V1
    forecast_id: Annotated[
        str, Meta(description="Topic, partition and offset of the reading: unique, and the same after a crash.")
    ]
    stay_id: Annotated[str, Meta(description="As in the reading; also the record's key.")]
    issued_at: Annotated[
        Timestamp,
        Meta(description="Where the horizons begin: the stay's newest observed_at; for a reading in order, its own."),
    ]
    produced_at: Annotated[Timestamp, Meta(description="When the worker wrote it, by its clock.")]
    status: Annotated[
        Status,
        Meta(
            description="stale: no value within `stale_after_s`. warming_up: fewer than `min_observed_steps` of the "
            "last steps have one. Otherwise ok."
        ),
    ]
    calibration: Annotated[
        Literal["adaptive", "none"], Meta(description="Whether the bands learn from the stay's own past errors.")
    ] = "none"
    model: Annotated[ModelReference, Meta(description="What made it.")]
    step_s: Annotated[int, Meta(description="Length of a step in seconds, counted from the Unix epoch.")]
    horizons_s: Annotated[list[int], Meta(description="How far ahead, in seconds: the rows of `quantiles`.")]
    quantile_levels: Annotated[list[float], Meta(description="The columns of `quantiles`.")]
    signals: Annotated[dict[str, SignalForecast], Meta(description="Signals with a value in the window; may be empty.")]
    anomalies: Annotated[
        dict[str, Anomaly],
        Meta(description="Signals with a value in this reading for which the step before had a forecast."),
    ]
    source: Annotated[Source, Meta(description="The reading it answers.")]
