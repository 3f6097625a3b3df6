"""What leaves on `vitals.forecasts`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from schemas.reading import Timestamp

FORECAST_V1: Final = "vitals.forecast.v1"

Status = Literal["ok", "warming_up", "stale"]
QuantileRow = list[float]  # one horizon: non-decreasing along quantile_levels


class Source(msgspec.Struct, frozen=True):
    """The record that something was computed from."""

    topic: str
    partition: int
    offset: int


class ModelReference(msgspec.Struct, frozen=True):
    """The model that made a forecast; sha256 is the first 12 hex digits of its file's hash."""

    name: str
    version: str
    sha256: str


class SignalForecast(msgspec.Struct, frozen=True):
    """One signal: its newest accepted value, and a row of quantiles for each horizon, in the signal's unit."""

    last: float
    last_at: Timestamp
    quantiles: list[QuantileRow]


class Anomaly(msgspec.Struct, frozen=True):
    """How surprising the signal's newest value was under the forecast made before it: 0 (expected) to 1."""

    score: Annotated[float, msgspec.Meta(ge=0, le=1)]
    flag: bool


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """The forecast that one accepted reading leaves."""

    schema: Literal["vitals.forecast.v1"] = FORECAST_V1
    forecast_id: str
    stay_id: str
    issued_at: Timestamp
    produced_at: Timestamp
    status: Status
    calibration: Literal["adaptive", "none"] = "none"
    model: ModelReference
    step_s: int
    horizons_s: list[int]
    quantile_levels: list[float]
    signals: dict[str, SignalForecast]
    anomalies: dict[str, Anomaly]
    source: Source
