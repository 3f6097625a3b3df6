"""Alert limits: their defaults with sources, and how settings and stay events change them."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any, Final, Self

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, model_validator

from schemas.reading import LimitRange
from schemas.signals import VITALS_BY_NAME
from stream_worker.times import LONGEST_S

ORDER: Final = "severe_low <= low < high <= severe_high must hold"
NO_LIMIT: Final = "none"  # TOML has no word for it
Seconds = Annotated[float, Field(allow_inf_nan=False, le=LONGEST_S)]
_NONE: Final = BeforeValidator(lambda value: None if value == NO_LIMIT else value)


class SignalLimits(BaseModel):
    """Limits of one signal, in its unit. None, or "none" in a settings file = no limit.

    A mild excursion (beyond low or high) must last `delay_s` before it is an alert of medium priority, a severe one
    (beyond severe_low or severe_high) only `severe_delay_s`, and is of high priority: most of the alarms that nobody
    needs are mild and brief (Imhoff & Kuhls 2006; Schmid et al. 2013). The value has recovered once it has been inside
    the limit by `hysteresis` (without one: a thirtieth of the limit) for `recover_s`: a value that comes and goes is
    one open alert. After that it is not raised again for `rearm_s`, unless it is severe: what begins within half an
    hour of the last is not reported twice. Of a signal that is missing for `data_lost_s` nothing can be told any more.

    A forecast is an alert from `forecast_probability` on, pooled over its horizons (`alerts.outlook`); 1 = never.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: Annotated[float | None, _NONE] = None
    high: Annotated[float | None, _NONE] = None
    severe_low: Annotated[float | None, _NONE] = None
    severe_high: Annotated[float | None, _NONE] = None
    delay_s: Seconds = Field(240.0, ge=0)
    high_delay_s: Annotated[Seconds | None, _NONE] = Field(None, ge=0)  # delay_s of the high side, where it is another
    severe_delay_s: Seconds = Field(30.0, ge=0)
    hysteresis: Annotated[float | None, _NONE] = Field(None, ge=0, allow_inf_nan=False)
    recover_s: Seconds = Field(600.0, ge=0)
    rearm_s: Seconds = Field(1200.0, ge=0)
    data_lost_s: Seconds = Field(900.0, gt=0)
    forecast_probability: float = Field(0.5, gt=0, le=1)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if not self.is_usable:
            raise ValueError(f"{ORDER}, all of them finite")
        return self

    @property
    def is_usable(self) -> bool:
        """Whether no limit contradicts another."""
        given = [limit for limit in (self.severe_low, self.low, self.high, self.severe_high) if limit is not None]
        is_empty = self.low is not None and self.high is not None and self.low >= self.high
        return given == sorted(given) and not is_empty and all(map(isfinite, given))

    @property
    def severe_alone(self) -> str | None:
        """The side of a severe limit that has no mild one, if there is such: no rule would look at it."""
        pairs = {"low": (self.low, self.severe_low), "high": (self.high, self.severe_high)}
        return next((side for side, (mild, severe) in pairs.items() if mild is None and severe is not None), None)

    def delay_of(self, side: str) -> float:
        """How long a mild excursion to this side must last."""
        return self.delay_s if side == "low" or self.high_delay_s is None else self.high_delay_s

    def overridden(self, override: LimitRange) -> SignalLimits:
        """These limits with those of a stay's `limits` event; a severe limit never stays inside the new mild one."""
        given = {"low": override.low, "high": override.high}
        return self.changed({side: limit for side, limit in given.items() if limit is not msgspec.UNSET})

    def changed(self, given: Mapping[str, Any]) -> SignalLimits:
        """These limits but for what is `given`; severe limits that are not stay outside the mild ones."""
        new = self.model_copy(update=dict(given))
        severe = {
            "severe_low": None if new.low is None or new.severe_low is None else min(new.severe_low, new.low),
            "severe_high": None if new.high is None or new.severe_high is None else max(new.severe_high, new.high),
        }
        return new.model_copy(update={side: limit for side, limit in severe.items() if side not in given})


class AlertLimits(RootModel[dict[str, SignalLimits]]):
    """Limits of one care unit, by signal."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for name, limits in self.root.items():
            for side in ("severe_low", "low", "high", "severe_high"):
                if not is_reachable(name, getattr(limits, side)):
                    signal = VITALS_BY_NAME[name]
                    raise ValueError(f"{name}.{side}: must be from {signal.low:g} to {signal.high:g}, as values are")
        return self


def is_reachable(signal: str, limit: float | None) -> bool:
    """Whether there is no limit, or one where the signal's values can be: what is beyond that is ignored as impossible.

    A limit that no value can reach switches an alert off unseen, and is often one of another unit.
    """
    known = VITALS_BY_NAME.get(signal)
    return limit is None or known is None or known.low <= limit <= known.high


# Measured now and then, by a cuff or by hand: a value counts until the next.
SPOT_SIGNALS: Final = frozenset({"nibp_sys", "nibp_dia", "nibp_mean", "temp"})

# Mean pressure: 65 mmHg is the target of the Surviving Sepsis Campaign (Evans et al. 2021); below 50 organs fail within
# minutes. Other mild limits: the defaults of common ICU monitors as surveyed by Drew et al. 2014; severe ones: where
# NEWS2 gives three points (RCP 2017) or beyond. Durations: those of the episodes that matter clinically, less the
# minute that the last of their readings stands for. forecast_probability of the mean pressure: where 82 % of
# hypotensive episodes are announced (docs/alerts.md). Temperature is often taken by hand, every few hours, and a cuff
# measures every 15 to 60 min: it has no limits, but where a unit or a stay sets one, a value counts until the next.
DEFAULT_LIMITS: Final = AlertLimits(
    {
        "abp_mean": SignalLimits(low=65, severe_low=50, hysteresis=2, forecast_probability=0.083),
        "abp_sys": SignalLimits(low=90, high=180, severe_low=70, severe_high=220, high_delay_s=1740, hysteresis=3),
        "spo2": SignalLimits(low=90, severe_low=85, delay_s=120, hysteresis=1),
        "hr": SignalLimits(
            low=50, high=130, severe_low=40, severe_high=150, delay_s=120, high_delay_s=240, hysteresis=3
        ),
        "resp": SignalLimits(low=8, high=30, severe_low=4, severe_high=45, delay_s=120, high_delay_s=240, hysteresis=1),
        "temp": SignalLimits(low=35, high=39.5, delay_s=540, hysteresis=0.3, data_lost_s=14_400),
        **{name: SignalLimits(data_lost_s=7200) for name in ("nibp_sys", "nibp_dia", "nibp_mean")},
    }
)


def completed(care_units: Mapping[str, AlertLimits]) -> dict[str, AlertLimits]:
    """Every unit's limits in full: what a unit does not say is as in "default", and what that does not say as above.

    Raises: ValueError if what is said contradicts what is not.
    """
    full: dict[str, AlertLimits] = {"default": DEFAULT_LIMITS}
    for unit in sorted(care_units, key=lambda name: name != "default"):
        limits = dict(full["default"].root)
        for signal, given in care_units[unit].root.items():
            said = {name: getattr(given, name) for name in given.model_fields_set}
            limits[signal] = limits.get(signal, SignalLimits()).changed(said)
            if not limits[signal].is_usable:
                raise ValueError(f"{unit}.{signal}: {ORDER}, with what is not given as by default")
            if lonely := limits[signal].severe_alone:
                raise ValueError(f"{unit}.{signal}: severe_{lonely} needs {lonely}")
        full[unit] = AlertLimits(limits)
    return full


def can_add(
    care_units: Mapping[str, AlertLimits],
    care_unit: str | None,
    overrides: Mapping[str, LimitRange],
    new: Mapping[str, LimitRange],
) -> bool:
    """Whether a stay can have `new` limits besides its own `overrides`."""
    given = [(signal, limit) for signal, own in new.items() for limit in (own.low, own.high)]
    if not all(limit is msgspec.UNSET or is_reachable(signal, limit) for signal, limit in given):
        return False
    unit = _of_unit(care_units, care_unit)
    return all(
        unit.get(signal, SignalLimits()).overridden(own).is_usable for signal, own in {**overrides, **new}.items()
    )


def limits_of(
    care_units: Mapping[str, AlertLimits], care_unit: str | None, overrides: Mapping[str, LimitRange]
) -> dict[str, SignalLimits]:
    """The limits that hold for a stay: its care unit's (`completed`), else the default ones, then its own.

    A stay that goes to another unit keeps its own; what the new unit has on the other side ends if it contradicts them.
    """
    merged = dict(_of_unit(care_units, care_unit))
    for signal, own in overrides.items():
        of_unit = merged.get(signal, SignalLimits())
        limits = of_unit.overridden(own)
        merged[signal] = limits if limits.is_usable else of_unit.changed({"low": None, "high": None}).overridden(own)
    return merged


def _of_unit(care_units: Mapping[str, AlertLimits], care_unit: str | None) -> Mapping[str, SignalLimits]:
    return care_units.get(care_unit or "default", care_units["default"]).root
