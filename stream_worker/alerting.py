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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from schemas.alert import AlertState, ClearReason, Priority
from schemas.signals import VITALS_BY_NAME
from stream_worker.limits import SignalLimits
from stream_worker.stays import NEVER, AlertEntry

Presence = Literal["on", "off", "unknown"]
SECOND: Final = 1_000_000

# Forecast limits: raised when a crossing within 15 min is more likely than not, sustained so that one odd reading
# raises nothing; cleared well below that, so that it does not flicker.
FORECAST_HORIZON_S: Final = 900
RAISE_PROBABILITY: Final = 0.6
CLEAR_PROBABILITY: Final = 0.4
FORECAST_DELAY_S: Final = 60.0
FORECAST_RECOVER_S: Final = 300.0
# An anomaly is an alert when it goes on: single flags are in the forecasts for those who want them.
ANOMALY_DELAY_S: Final = 120.0
ANOMALY_RECOVER_S: Final = 300.0
# A signal that came lately and no longer does. After an hour it is taken to be disconnected on purpose.
SENSOR_OFF_AFTER_S: Final = 300.0
SENSOR_OFF_UNTIL_S: Final = 3600.0
# An arterial pressure that does not move by a tenth for so long is a closed tap or a stuck device. Saturation is often
# constant for hours, and so is the heart rate of a paced patient.
FLATLINE_AFTER_S: Final = 900.0
FLATLINE_SIGNALS: Final = frozenset({"abp_sys", "abp_dia", "abp_mean"})
IMPLAUSIBLE_DELAY_S: Final = 120.0
# Electrical and mechanical rate differ by this much in atrial fibrillation and in motion artefacts, not otherwise.
DISAGREEMENT_RATE: Final = 20.0
DISAGREEMENT_DELAY_S: Final = 180.0
TECHNICAL_RECOVER_S: Final = 60.0


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
    horizons_s: Sequence[int]  # up to FORECAST_HORIZON_S
    levels: Sequence[float]
    quantiles: Mapping[str, Sequence[Sequence[float]]]  # by signal: for each of those horizons, a value for each level


@dataclass(slots=True)
class Finding:
    """What a rule says of one condition at one reading."""

    key: AlertKey
    presence: Presence
    priority: Priority
    delay_s: float
    recover_s: float
    data_lost_s: float = 900.0
    evidence: dict[str, Any] = field(default_factory=dict)
    since_us: int | None = None  # if it began before this reading


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
    entries: Entries, observation: Observation, limits: Mapping[str, SignalLimits], offset: int
) -> list[Transition]:
    """Move a stay's alerts by one reading; `entries` is changed in place."""
    transitions: list[Transition] = []
    for finding in _findings(entries, observation, limits):
        transition = _move(entries, finding, observation, offset)
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


def _move(entries: Entries, finding: Finding, observation: Observation, offset: int) -> Transition | None:
    entry = entries.get(finding.key)
    at_us = observation.at_us
    if entry is None:
        if finding.presence != "on":
            return None
        since_us = at_us if finding.since_us is None else finding.since_us
        entry = entries[finding.key] = AlertEntry(since_us=since_us, priority=finding.priority)
    if finding.presence == "unknown":
        return _move_unknown(entries, finding, entry, observation)
    if finding.presence == "off":
        if entry.raised_offset is None:
            del entries[finding.key]
            return None
        if entry.recovered_since_us is None:
            entry.recovered_since_us = at_us
        if at_us - entry.recovered_since_us < finding.recover_s * SECOND:
            return None
        del entries[finding.key]
        return _cleared(finding.key, entry, at_us, "recovered", finding.evidence)
    entry.recovered_since_us = None
    if entry.raised_offset is None:
        entry.priority = finding.priority
        if at_us - entry.since_us < finding.delay_s * SECOND:
            return None
        entry.raised_offset = offset
        return _transition(finding, entry, at_us, "raised")
    if entry.priority == finding.priority:
        return None
    entry.priority = finding.priority
    entry.revision += 1
    return _transition(finding, entry, at_us, "updated")


def _move_unknown(entries: Entries, finding: Finding, entry: AlertEntry, observation: Observation) -> Transition | None:
    """A signal that is not in this reading changes nothing, until it has been away for too long."""
    signal = finding.key.signal
    last_us = observation.last_at_us.get(signal, NEVER) if signal else observation.at_us
    if observation.at_us - last_us < finding.data_lost_s * SECOND:
        return None
    del entries[finding.key]
    if entry.raised_offset is None:
        return None
    return _cleared(finding.key, entry, observation.at_us, "data_lost", finding.evidence)


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
        finding.priority,
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
    suspect = frozenset(
        key[1] for key, entry in entries.items() if key[0] == "technical" and entry.raised_offset is not None
    )
    yield from _sensor_off(entries, seen)
    yield from _flatline(entries, seen)
    yield from _implausible(entries, seen)
    yield from _disagreement(entries, seen)
    for signal, signal_limits in limits.items():
        if signal in suspect and signal in seen.values:
            continue  # a physiological alert is not started or ended by a sensor that cannot be believed
        for side in ("low", "high"):
            yield from _limit(entries, seen, signal, side, signal_limits)
            yield from _forecast_limit(entries, seen, signal, side, signal_limits)
    yield from _anomaly(entries, seen)


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
            yield Finding(key, "unknown", "medium", limits.delay_s, limits.recover_s)
        return
    is_severe = _is_beyond(value, severe, side)
    is_open = entry is not None and entry.raised_offset is not None
    is_on = _is_beyond(value, mild, side, limits.hysteresis if is_open else 0.0)
    if not is_on and entry is None:
        return
    yield Finding(
        key,
        "on" if is_on else "off",
        "high" if is_severe else "medium",
        limits.severe_delay_s if is_severe else limits.delay_s,
        limits.recover_s,
        evidence={"limit": severe if is_severe else mild, "last": value},
    )


def crossing_probability(seen: Observation, signal: str, side: str, limit: float) -> tuple[float, int]:
    """The largest probability over the near horizons that the signal is beyond `limit` then; and that horizon."""
    below = [_share_below(limit, quantiles, seen.levels) for quantiles in seen.quantiles[signal]]
    beyond = below if side == "low" else [1 - share for share in below]
    best = max(range(len(beyond)), key=beyond.__getitem__)
    return beyond[best], seen.horizons_s[best]


def _share_below(limit: float, quantiles: Sequence[float], levels: Sequence[float]) -> float:
    """The distribution function at `limit`: linear between quantiles; half of what is left beyond the outer ones."""
    above = bisect_left(quantiles, limit)
    if above == 0:
        return levels[0] / 2 if limit < quantiles[0] else levels[0]
    if above == len(quantiles):
        return (1 + levels[-1]) / 2
    low, high = quantiles[above - 1], quantiles[above]
    return levels[above - 1] + (levels[above] - levels[above - 1]) * (limit - low) / (high - low)


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
            yield Finding(key, "unknown", "medium", FORECAST_DELAY_S, FORECAST_RECOVER_S)
        return
    # Once the value itself is beyond, the limit rule speaks; the announcement stands until that is confirmed.
    if _is_beyond(value, limit, side):
        return
    if entry is None and not any(_is_beyond(q[len(q) // 2], limit, side) for q in seen.quantiles[signal]):
        return  # as likely as not to stay inside: nothing to begin with
    probability, horizon_s = crossing_probability(seen, signal, side, limit)
    is_open = entry is not None and entry.raised_offset is not None
    is_on = probability >= (CLEAR_PROBABILITY if is_open else RAISE_PROBABILITY)
    if not is_on and entry is None:
        return
    yield Finding(
        key,
        "on" if is_on else "off",
        "medium",
        FORECAST_DELAY_S,
        FORECAST_RECOVER_S,
        evidence={"limit": limit, "horizon_s": horizon_s, "probability": round(probability, 2), "last": value},
    )


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
    for signal, last_us in seen.last_at_us.items():
        key = AlertKey("technical", signal, None, "sensor_off")
        silent_s = (seen.at_us - last_us) / SECOND
        is_off = SENSOR_OFF_AFTER_S <= silent_s < SENSOR_OFF_UNTIL_S
        if key in entries:
            presence: Presence = "on" if is_off else "off" if silent_s < SENSOR_OFF_AFTER_S else "unknown"
            yield Finding(key, presence, "low", 0.0, 0.0, data_lost_s=SENSOR_OFF_UNTIL_S)
        elif is_off:
            yield Finding(key, "on", "low", 0.0, 0.0, evidence={"silent_s": SENSOR_OFF_AFTER_S}, since_us=last_us)


def _flatline(entries: Entries, seen: Observation) -> Iterator[Finding]:
    for signal in FLATLINE_SIGNALS & seen.values.keys():
        key = AlertKey("technical", signal, None, "flatline")
        changed_us = seen.changed_at_us[signal]
        is_flat = seen.at_us - changed_us >= FLATLINE_AFTER_S * SECOND
        if is_flat or key in entries:
            evidence = {"last": seen.values[signal]}
            presence: Presence = "on" if is_flat else "off"
            yield Finding(key, presence, "low", 0.0, 0.0, evidence=evidence, since_us=changed_us)
    yield from _unseen(entries, seen, "flatline")


def _implausible(entries: Entries, seen: Observation) -> Iterator[Finding]:
    for signal in seen.implausible:
        key = AlertKey("technical", signal, None, "implausible")
        yield Finding(key, "on", "low", IMPLAUSIBLE_DELAY_S, TECHNICAL_RECOVER_S)
    for key in [AlertKey(*k) for k in entries if k[3] == "implausible" and k[1] not in seen.implausible]:
        presence: Presence = "off" if key.signal in seen.values else "unknown"
        yield Finding(key, presence, "low", IMPLAUSIBLE_DELAY_S, TECHNICAL_RECOVER_S)


def _disagreement(entries: Entries, seen: Observation) -> Iterator[Finding]:
    key = AlertKey("technical", "hr", None, "disagreement")
    hr, pulse = seen.values.get("hr"), seen.values.get("pulse")
    if hr is None or pulse is None:
        if key in entries:
            yield Finding(key, "unknown", "low", DISAGREEMENT_DELAY_S, TECHNICAL_RECOVER_S)
        return
    disagrees = abs(hr - pulse) > DISAGREEMENT_RATE
    if disagrees or key in entries:
        evidence = {"last": hr, "pulse": pulse}
        presence: Presence = "on" if disagrees else "off"
        yield Finding(key, presence, "low", DISAGREEMENT_DELAY_S, TECHNICAL_RECOVER_S, evidence=evidence)


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
                f"{title} likely {side} {evidence['limit']:g}{unit} within {evidence['horizon_s'] // 60} min "
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
