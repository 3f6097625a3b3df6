"""Alerts of one stay: conditions that hold long enough are raised, change, and are cleared when they no longer do.

A rule looks at a reading and says of a condition whether it is on, off, or cannot be told. `step` keeps each
condition's history in an `AlertEntry` and returns the transitions. Pure: time is the reading's.

             on for delay_s            off for recover_s
    (none) --------------> raised ----------------------> cleared (recovered)
                             |  ^ priority changed: updated
                             +--> cannot be told for data_lost_s: cleared (data_lost)
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, inf, log
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.alert import AlertState, ClearReason, Priority
from schemas.signals import VITALS_BY_NAME
from stream_worker.limits import SignalLimits
from stream_worker.stays import NEVER, AlertEntry

Presence = Literal["on", "off", "unknown"]
# suspect: its signal's sensor is. rearm: the same was raised of late, or is known.
HoldReason = Literal["suspect", "rearm"]
SECOND: Final = 1_000_000

# Up to this share of an excursion the value may be back inside: a brief return does not end it (the definition of an
# episode in docs/alerts.md asks for nine tenths).
RETURN_SHARE: Final = 0.1
# Forecast limits: see `outlook`. Cleared a little below the probability that raises it, at once: it is open while it
# holds. An episode is worth one announcement, so the next may come an hour after it.
CLEAR_MARGIN: Final = 0.3  # log-odds
FORECAST_REARM_S: Final = 3480.0
# While the limit's own alert is open, a value beyond the limit is known, and that it may come back so soon after.
FORECAST_QUIET_S: Final = 1500.0
# Of a limit that is further away than this share of it, the forecast's tail is not to be trusted.
FORECAST_REACH: Final = 0.2
SURE: Final = 0.001  # no forecast is surer than this or its opposite
# An anomaly is an alert when it goes on: single flags are in the forecasts for those who want them.
ANOMALY_DELAY_S: Final = 120.0
ANOMALY_RECOVER_S: Final = 300.0
# A signal that came regularly and no longer does. After two hours it is taken to be disconnected on purpose.
SENSOR_OFF_AFTER_S: Final = 1800.0
SENSOR_OFF_UNTIL_S: Final = 7200.0
REGULAR_SHARE: Final = 0.75  # of the steps before
# One signal for each sensor: what else comes from it goes with it.
SENSOR_SIGNALS: Final = ("hr", "resp", "spo2", "abp_mean")
# An arterial pressure that does not move by a tenth for so long is a closed tap or a stuck device. Saturation is often
# constant for hours, and so is the heart rate of a paced patient.
FLATLINE_AFTER_S: Final = 900.0
FLATLINE_SIGNALS: Final = frozenset({"abp_sys", "abp_dia", "abp_mean"})
IMPLAUSIBLE_DELAY_S: Final = 300.0
# Electrical and mechanical rate differ by this much in atrial fibrillation and in motion artefacts, not otherwise.
DISAGREEMENT_RATE: Final = 20.0
DISAGREEMENT_DELAY_S: Final = 3600.0
# Under these a value is no measurement. A pulse that differs may be ectopy: the heart rate counts all the same.
SUSPECT_CAUSES: Final = frozenset({"flatline", "implausible"})
TECHNICAL_RECOVER_S: Final = 60.0
# Somebody has looked, or will not: a technical fault is told of once in a shift.
TECHNICAL_REARM_S: Final = 43_200.0


class AlertKey(NamedTuple):
    """What an alert is about. A stay has at most one open alert for each."""

    kind: str
    signal: str | None = None
    side: str | None = None
    cause: str | None = None


@dataclass(slots=True)
class Observation:
    """What the rules see of one accepted reading. Values by signal, in canonical units."""

    at_us: int
    values: Mapping[str, float]  # newest of their signal, observed in this reading, not doubted by the device
    last_at_us: Mapping[str, int]
    changed_at_us: Mapping[str, int]
    implausible: frozenset[str]
    scores: Mapping[str, float]  # of this reading's values
    flagged: frozenset[str]
    regular: frozenset[str]  # signals that came in most of the last steps before they ceased
    horizons_s: Sequence[int]
    levels: Sequence[float]
    quantiles: Mapping[str, Sequence[Sequence[float]]]  # by signal: for each horizon, a value for each level


@dataclass(slots=True)
class Finding:
    """What a rule says of one condition at one reading."""

    key: AlertKey
    presence: Presence
    priority: Priority
    delay_s: float
    recover_s: float
    data_lost_s: float = 900.0
    rearm_s: float = 0.0
    severe_delay_s: float | None = None  # given: the value is severe, and of high priority if that lasts so long
    evidence: dict[str, Any] = field(default_factory=dict)
    since_us: int | None = None  # if it began before this reading
    held: HoldReason | None = None  # why it is not to be raised now


@dataclass(slots=True)
class Transition:
    """One revision of an alert, to be published."""

    key: AlertKey
    state: AlertState
    revision: int
    priority: Priority
    since_us: int
    at_us: int
    raised_offset: int
    clear_reason: ClearReason | None
    evidence: dict[str, Any]
    superseded_by: AlertKey | None = None
    lead_time_s: float | None = None


Entries = dict[tuple[str, str | None, str | None, str | None], AlertEntry]


def step(
    entries: Entries, observation: Observation, limits: Mapping[str, SignalLimits], offset: int, held: Counter[str]
) -> list[Transition]:
    """Move a stay's alerts by one reading; `entries` is changed in place, `held` counts what was held back."""
    transitions: list[Transition] = []
    for finding in _findings(entries, observation, limits):
        transition = _move(entries, finding, observation, offset, held)
        if transition is not None:
            transitions.append(transition)
            if transition.state == "raised" and finding.key.kind == "limit":
                transitions.extend(_supersede(entries, transition))
    return transitions


def close(entries: Entries, at_us: int, reason: ClearReason) -> list[Transition]:
    """Clear all of a stay's alerts and forget its excursions."""
    transitions = [
        _cleared(AlertKey(*key), entry, at_us, reason)
        for key, entry in entries.items()
        if entry.raised_offset is not None
    ]
    entries.clear()
    return transitions


NO_DATA: Final = AlertKey("technical", None, None, "no_data")


def lose_data(entries: Entries, newest_us: int, stale_after_s: float, offset: int) -> list[Transition]:
    """Raise no_data for a stay whose last reading, at `offset`, is `stale_after_s` old. The same alert whoever noticed.

    Nothing else can be told of the stay any more: its other alerts are cleared as data_lost.
    """
    at_us = newest_us + int(stale_after_s * SECOND)
    lost = close(entries, at_us, "data_lost")
    entries[NO_DATA] = AlertEntry(since_us=newest_us, priority="low", raised_offset=offset)
    evidence = {"silent_s": stale_after_s}
    return [*lost, Transition(NO_DATA, "raised", 0, "low", newest_us, at_us, offset, None, evidence)]


def _move(
    entries: Entries, finding: Finding, observation: Observation, offset: int, held: Counter[str]
) -> Transition | None:
    entry = entries.get(finding.key)
    at_us = observation.at_us
    if entry is None:
        if finding.presence != "on":
            return None
        entry = entries[finding.key] = AlertEntry(since_us=NEVER, priority=finding.priority)
    if finding.presence == "unknown":
        return _move_unknown(entries, finding, entry, observation)
    if finding.severe_delay_s is None:
        entry.severe_since_us = None
    elif entry.severe_since_us is None:
        entry.severe_since_us = at_us
    is_high = finding.severe_delay_s is not None and _lasts(entry.severe_since_us, at_us, finding.severe_delay_s)
    if entry.raised_offset is not None:
        return _move_open(entries, finding, entry, at_us, is_high=is_high)
    _follow(entry, finding, at_us)
    if entry.since_us == NEVER:
        if at_us >= entry.rested_until_us:
            del entries[finding.key]
        return None
    is_due = is_high or _lasts(entry.since_us, at_us, finding.delay_s)
    if finding.presence == "off" or not is_due:
        return None
    reason = finding.held or ("rearm" if at_us < entry.rested_until_us and not is_high else None)
    if reason is not None:
        held[reason] += not entry.is_held
        entry.is_held = True
        return None
    entry.is_held = False
    entry.priority = "high" if is_high else finding.priority
    entry.raised_offset = offset
    entry.revision = 0
    entry.rested_until_us = at_us + int(finding.rearm_s * SECOND)
    return _transition(finding, entry, at_us, "raised")


def _lasts(since_us: int | None, at_us: int, delay_s: float) -> bool:
    return since_us is not None and at_us - since_us >= delay_s * SECOND


def _follow(entry: AlertEntry, finding: Finding, at_us: int) -> None:
    """Keep account of an excursion that is not an alert yet: when it began, for how long the value was back.

    A reading holds until the next one, so time is counted alike at any rate.
    """
    is_on = finding.presence == "on"
    if entry.since_us != NEVER and entry.recovered_since_us is not None:
        away_us = entry.returned_us + at_us - entry.recovered_since_us
        if away_us > RETURN_SHARE * (at_us - entry.since_us):
            entry.since_us = NEVER
        elif is_on:
            entry.returned_us, entry.recovered_since_us = away_us, None
    if is_on and entry.since_us == NEVER:
        entry.since_us = at_us if finding.since_us is None else finding.since_us
        entry.returned_us, entry.recovered_since_us, entry.is_held = 0, None, False
    elif not is_on and entry.recovered_since_us is None:
        entry.recovered_since_us = at_us
    if entry.since_us == NEVER:
        entry.returned_us, entry.recovered_since_us = 0, None


def _move_open(
    entries: Entries, finding: Finding, entry: AlertEntry, at_us: int, *, is_high: bool
) -> Transition | None:
    if finding.presence == "off":
        if entry.recovered_since_us is None:
            entry.recovered_since_us = at_us
        if not _lasts(entry.recovered_since_us, at_us, finding.recover_s):
            return None
        _rest(entries, finding, at_us)
        return _cleared(finding.key, entry, at_us, "recovered", finding.evidence)
    entry.recovered_since_us = None
    if not is_high or entry.priority == "high":
        return None
    entry.priority = "high"  # and stays so: an alert that was severe is looked after until it is over
    entry.revision += 1
    return _transition(finding, entry, at_us, "updated")


def _rest(entries: Entries, finding: Finding, at_us: int) -> None:
    """Forget the alert, but not when the next of its kind may come.

    A limit rests from its end. What only announces or advises rests from when it was raised.
    """
    entry = entries.pop(finding.key)
    until_us = at_us + int(finding.rearm_s * SECOND) if finding.key.kind == "limit" else entry.rested_until_us
    if until_us > at_us:
        entries[finding.key] = AlertEntry(since_us=NEVER, priority=finding.priority, rested_until_us=until_us)


def _move_unknown(entries: Entries, finding: Finding, entry: AlertEntry, observation: Observation) -> Transition | None:
    """A signal that is not in this reading changes nothing, until it has been away for too long."""
    signal, at_us = finding.key.signal, observation.at_us
    last_us = observation.last_at_us.get(signal, NEVER) if signal else at_us
    if at_us - last_us < finding.data_lost_s * SECOND:
        return None
    if entry.raised_offset is None:
        entry.since_us = NEVER
        if at_us >= entry.rested_until_us:
            del entries[finding.key]
        return None
    _rest(entries, finding, at_us)
    return _cleared(finding.key, entry, at_us, "data_lost", finding.evidence)


def _supersede(entries: Entries, raised: Transition) -> Iterator[Transition]:
    """A limit alert ends the forecast alert that announced it, and tells by how much it was ahead."""
    key = AlertKey("forecast_limit", raised.key.signal, raised.key.side)
    announced = entries.get(key)
    if announced is None or announced.raised_offset is None:
        return
    del entries[key]
    cleared = _cleared(key, announced, raised.at_us, "superseded")
    cleared.superseded_by = raised.key
    cleared.lead_time_s = max(0.0, (raised.since_us - announced.since_us) / SECOND)
    yield cleared


def _transition(finding: Finding, entry: AlertEntry, at_us: int, state: AlertState) -> Transition:
    assert entry.raised_offset is not None  # callers have just set or checked it
    return Transition(
        finding.key,
        state,
        entry.revision,
        "high" if entry.priority == "high" else finding.priority,
        entry.since_us,
        at_us,
        entry.raised_offset,
        None,
        finding.evidence,
    )


def _cleared(
    key: AlertKey, entry: AlertEntry, at_us: int, reason: ClearReason, evidence: dict[str, Any] | None = None
) -> Transition:
    assert entry.raised_offset is not None  # only raised alerts are cleared
    priority: Any = entry.priority
    return Transition(
        key, "cleared", entry.revision + 1, priority, entry.since_us, at_us, entry.raised_offset, reason, evidence or {}
    )


# --- rules ---


def _findings(entries: Entries, seen: Observation, limits: Mapping[str, SignalLimits]) -> Iterable[Finding]:
    yield from _no_data(entries)
    yield from _sensor_off(entries, seen)
    yield from _flatline(entries, seen)
    yield from _implausible(entries, seen)
    yield from _disagreement(entries, seen)
    suspect = frozenset(key[1] for key, entry in entries.items() if key[3] in SUSPECT_CAUSES and _is_open(entry))
    for signal, signal_limits in limits.items():
        for side in ("low", "high"):
            for rule in (_limit, _forecast_limit):
                for finding in rule(entries, seen, signal, side, signal_limits):
                    if signal in suspect and finding.presence != "unknown":
                        if _is_open(entries.get(finding.key)):
                            continue  # what a sensor says that cannot be believed ends no alert either
                        finding.held = "suspect"
                    yield finding
    yield from _anomaly(entries, seen)


def _is_open(entry: AlertEntry | None) -> bool:
    return entry is not None and entry.raised_offset is not None


def _is_beyond(value: float, limit: float | None, side: str, margin: float = 0.0) -> bool:
    if limit is None:
        return False
    return value < limit + margin if side == "low" else value > limit - margin


def _limit(entries: Entries, seen: Observation, signal: str, side: str, limits: SignalLimits) -> Iterator[Finding]:
    key = AlertKey("limit", signal, side)
    mild, severe = (limits.low, limits.severe_low) if side == "low" else (limits.high, limits.severe_high)
    entry = entries.get(key)
    if mild is None and entry is None:
        return
    value = seen.values.get(signal)
    if value is None:
        if entry is not None:
            yield Finding(key, "unknown", "medium", limits.delay_of(side), limits.recover_s, rearm_s=limits.rearm_s)
        return
    is_severe = _is_beyond(value, severe, side)
    is_open = _is_open(entry)
    is_on = _is_beyond(value, mild, side, limits.hysteresis if is_open else 0.0)
    if not is_on and entry is None:
        return
    yield Finding(
        key,
        "on" if is_on else "off",
        "medium",
        limits.delay_of(side),
        limits.recover_s,
        rearm_s=limits.rearm_s,
        severe_delay_s=limits.severe_delay_s if is_severe else None,
        evidence={"limit": severe if is_severe else mild, "last": value},
    )


def outlook(seen: Observation, signal: str, side: str, limit: float) -> float:
    """The log-odds that the signal comes to be beyond `limit`: their mean over all horizons of the forecast.

    The mean takes the whole predictive distribution: a threat must show at several horizons, a spike at one is diluted,
    a trend raises them one after the other.
    """
    total = 0.0
    for quantiles in seen.quantiles[signal]:
        below = _share_below(limit, quantiles, seen.levels)
        beyond = min(max(below if side == "low" else 1 - below, SURE), 1 - SURE)
        total += log(beyond / (1 - beyond))
    return total / len(seen.quantiles[signal])


def _share_below(limit: float, quantiles: Sequence[float], levels: Sequence[float]) -> float:
    """The distribution function at `limit`: linear between quantiles, exponential beyond the outer ones.

    The tails are those of a Laplace distribution with this median and these outer quantiles.
    """
    above = bisect_left(quantiles, limit)
    median = quantiles[len(quantiles) // 2]
    if above == 0:
        fold = max(median - quantiles[0], _NARROW) / log(0.5 / levels[0])
        return levels[0] * exp((limit - quantiles[0]) / fold)
    if above == len(quantiles):
        fold = max(quantiles[-1] - median, _NARROW) / log(0.5 / (1 - levels[-1]))
        return 1 - (1 - levels[-1]) * exp((quantiles[-1] - limit) / fold)
    low, high = quantiles[above - 1], quantiles[above]
    return levels[above - 1] + (levels[above] - levels[above - 1]) * (limit - low) / (high - low)


_NARROW: Final = 0.1  # half a band: narrower than most signals' precision


def highest_outlooks(levels: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The highest log-odds of a horizon of which 0, 1 ... Q quantiles are beyond a low limit, and beyond a high one."""
    low = [log_odds(min(level, 1 - SURE)) for level in (*levels, 1.0)]
    high = [log_odds(min(1 - level, 1 - SURE)) for level in (*reversed(levels), 0.0)]
    return np.array(low), np.array(high)


def log_odds(probability: float) -> float:
    return log(probability / (1 - probability)) if probability < 1 else inf


def _forecast_limit(
    entries: Entries, seen: Observation, signal: str, side: str, limits: SignalLimits
) -> Iterator[Finding]:
    key = AlertKey("forecast_limit", signal, side)
    limit = limits.low if side == "low" else limits.high
    entry = entries.get(key)
    if entry is None and (limit is None or signal not in seen.quantiles):
        return
    value = seen.values.get(signal)
    if value is None or limit is None or signal not in seen.quantiles:
        if entry is not None:
            yield Finding(key, "unknown", "medium", 0.0, 0.0)
        return
    # Once the value itself is beyond, the limit rule speaks; the announcement stands until that is confirmed.
    if _is_beyond(value, limit, side):
        if _is_open(entries.get(AlertKey("limit", signal, side))):
            entry = entries.setdefault(key, AlertEntry(since_us=NEVER, priority="medium"))
            entry.rested_until_us = max(entry.rested_until_us, seen.at_us + int(FORECAST_QUIET_S * SECOND))
        return
    if entry is None and not any(
        _is_beyond(q[0 if side == "low" else -1], limit, side) for q in seen.quantiles[signal]
    ):
        return  # no horizon gives it even the outermost quantile: nothing to begin with
    ahead = outlook(seen, signal, side, limit)
    is_open = _is_open(entry)
    is_near = abs(value - limit) <= FORECAST_REACH * limit
    is_on = ahead >= log_odds(limits.forecast_probability) - (CLEAR_MARGIN if is_open else 0.0)
    if not (is_on and (is_near or is_open)) and entry is None:
        return
    evidence = {
        "limit": limit,
        "horizon_s": seen.horizons_s[-1],
        "probability": round(probability_of(ahead), 2),
        "last": value,
    }
    yield Finding(
        key,
        "on" if is_on and (is_near or is_open) else "off",
        "medium",
        0.0,
        0.0,
        rearm_s=FORECAST_REARM_S,
        evidence=evidence,
    )


# From the pooled log-odds to how often such alerts came true: logistic regression on alerts raised at thresholds from
# -3 to 0.5 on recordings (docs/alerts.md says which). An episode begins within the longest horizon.
_CALIBRATION: Final = (0.61, 0.57)


def probability_of(ahead: float) -> float:
    """How often what is announced at these log-odds comes true."""
    intercept, slope = _CALIBRATION
    return 1 / (1 + exp(-(intercept + slope * ahead)))


def _anomaly(entries: Entries, seen: Observation) -> Iterator[Finding]:
    for signal, score in seen.scores.items():
        key = AlertKey("anomaly", signal)
        is_flagged = signal in seen.flagged
        if is_flagged or key in entries:
            evidence = {"score": round(score, 3), "last": seen.values.get(signal)}
            yield Finding(
                key, "on" if is_flagged else "off", "low", ANOMALY_DELAY_S, ANOMALY_RECOVER_S, evidence=evidence
            )
    for key in [AlertKey(*k) for k in entries if k[0] == "anomaly" and k[1] not in seen.scores]:
        yield Finding(key, "unknown", "low", ANOMALY_DELAY_S, ANOMALY_RECOVER_S)


def _no_data(entries: Entries) -> Iterator[Finding]:
    if NO_DATA in entries:
        yield Finding(NO_DATA, "off", "low", 0.0, 0.0)


def _sensor_off(entries: Entries, seen: Observation) -> Iterator[Finding]:
    for signal in SENSOR_SIGNALS:
        if signal not in seen.last_at_us:
            continue
        last_us = seen.last_at_us[signal]
        key = AlertKey("technical", signal, None, "sensor_off")
        silent_s = (seen.at_us - last_us) / SECOND
        is_off = SENSOR_OFF_AFTER_S <= silent_s < SENSOR_OFF_UNTIL_S
        if key in entries:
            presence: Presence = "on" if is_off else "off" if silent_s < SENSOR_OFF_AFTER_S else "unknown"
        elif is_off and signal in seen.regular:
            presence = "on"
        else:
            continue
        yield Finding(
            key,
            presence,
            "low",
            0.0,
            0.0,
            data_lost_s=SENSOR_OFF_UNTIL_S,
            rearm_s=TECHNICAL_REARM_S,
            evidence={"silent_s": SENSOR_OFF_AFTER_S} if presence == "on" else {},
            since_us=last_us,
        )


def _flatline(entries: Entries, seen: Observation) -> Iterator[Finding]:
    for signal in FLATLINE_SIGNALS & seen.values.keys():
        key = AlertKey("technical", signal, None, "flatline")
        changed_us = seen.changed_at_us[signal]
        is_flat = seen.at_us - changed_us >= FLATLINE_AFTER_S * SECOND
        if is_flat or key in entries:
            evidence = {"last": seen.values[signal]}
            presence: Presence = "on" if is_flat else "off"
            yield Finding(
                key, presence, "low", 0.0, 0.0, rearm_s=TECHNICAL_REARM_S, evidence=evidence, since_us=changed_us
            )
    yield from _unseen(entries, seen, "flatline")


def _implausible(entries: Entries, seen: Observation) -> Iterator[Finding]:
    for signal in seen.implausible:
        key = AlertKey("technical", signal, None, "implausible")
        yield Finding(key, "on", "low", IMPLAUSIBLE_DELAY_S, TECHNICAL_RECOVER_S, rearm_s=TECHNICAL_REARM_S)
    for key in [AlertKey(*k) for k in entries if k[3] == "implausible" and k[1] not in seen.implausible]:
        presence: Presence = "off" if key.signal in seen.values else "unknown"
        yield Finding(key, presence, "low", IMPLAUSIBLE_DELAY_S, TECHNICAL_RECOVER_S, rearm_s=TECHNICAL_REARM_S)


def _disagreement(entries: Entries, seen: Observation) -> Iterator[Finding]:
    key = AlertKey("technical", "hr", None, "disagreement")
    hr, pulse = seen.values.get("hr"), seen.values.get("pulse")
    if hr is None or pulse is None:
        if key in entries:
            yield Finding(key, "unknown", "low", DISAGREEMENT_DELAY_S, TECHNICAL_RECOVER_S, rearm_s=TECHNICAL_REARM_S)
        return
    disagrees = abs(hr - pulse) > DISAGREEMENT_RATE
    if disagrees or key in entries:
        evidence = {"last": hr, "pulse": pulse}
        presence: Presence = "on" if disagrees else "off"
        yield Finding(
            key,
            presence,
            "low",
            DISAGREEMENT_DELAY_S,
            TECHNICAL_RECOVER_S,
            rearm_s=TECHNICAL_REARM_S,
            evidence=evidence,
        )


def _unseen(entries: Entries, seen: Observation, cause: str) -> Iterator[Finding]:
    for key in [AlertKey(*k) for k in entries if k[3] == cause and k[1] not in seen.values]:
        yield Finding(key, "unknown", "low", 0.0, 0.0)


# --- words ---

_CAUSES: Final = {
    "sensor_off": "no values for {silent_s:.0f} s",
    "flatline": "has not changed for {minutes:.0f} min",
    "implausible": "values are not plausible",
    "disagreement": "disagrees with the pulse rate",
}


def message_of(transition: Transition) -> tuple[str, str, dict[str, Any]]:
    """(sentence, message key, parameters) of a revision, for people; the key and parameters are for translation."""
    key, evidence = transition.key, transition.evidence
    signal = VITALS_BY_NAME.get(key.signal or "")
    title = signal.title if signal else (key.signal or "All signals")
    unit = f" {_UNITS.get(signal.unit, signal.unit)}" if signal else ""
    params: dict[str, Any] = {"signal": key.signal, "side": key.side, "cause": key.cause, **evidence}
    message_key = ".".join(part for part in (key.kind, key.side or key.cause) if part)
    side = "below" if key.side == "low" else "above"
    if transition.state == "cleared":
        return (
            f"{title}: {_subject(key)} {_CLEARED[transition.clear_reason or 'recovered']}",
            f"{message_key}.cleared",
            params,
        )
    match key.kind:
        case "limit":
            text = f"{title} {side} {evidence['limit']:g}{unit} (now {evidence['last']:g})"
        case "forecast_limit":
            text = (
                f"{title} may go {side} {evidence['limit']:g}{unit} within {evidence['horizon_s'] // 60} min "
                f"(probability {evidence['probability']:.2f})"
            )
        case "anomaly":
            text = f"{title} is not what its course so far suggests"
        case _ if key.cause == "no_data":
            text = f"No readings for {evidence['silent_s'] / 60:.0f} min"
        case _:
            minutes = (transition.at_us - transition.since_us) / SECOND / 60
            text = f"{title} {_CAUSES[key.cause or ''].format(minutes=minutes, **{'silent_s': 0, **evidence})}"
    return text, message_key, params


_UNITS: Final = {"/min": "/min", "%": "%", "mm[Hg]": "mmHg", "Cel": "°C"}
_CLEARED: Final = {
    "recovered": "has ended",
    "data_lost": "can no longer be told",
    "stay_ended": "ended with the stay",
    "superseded": "has come true",
}


def _subject(key: AlertKey) -> str:
    subject = {"limit": "limit alert", "forecast_limit": "forecast alert", "anomaly": "anomaly"}.get(key.kind)
    return subject or f"{(key.cause or key.kind).replace('_', ' ')} alert"
