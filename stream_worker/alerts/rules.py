"""What readings say of a stay: technical faults, values and forecasts beyond their limits, anomalies, a score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from schemas.alert import Side
from stream_worker.alerts import life, news2_alert, technical
from stream_worker.alerts.entries import AlertEntry, AlertKey, Excursion
from stream_worker.alerts.life import Entries, Finding, HoldReason, Presence, Transition, follow, is_open
from stream_worker.alerts.news2_alert import Judgement
from stream_worker.alerts.observation import Observation
from stream_worker.alerts.outlook import log_odds, probability_of
from stream_worker.anomaly import FLAG_SCORE
from stream_worker.limits import SPOT_SIGNALS, SignalLimits
from stream_worker.times import BREAK_US, NEVER, SECOND_US

# A limit's value that is missing from a reading holds for so long: what was low and then could not be measured any
# more is reported, and not taken to be over.
HOLD_S: Final = 120.0
# Of a limit whose hysteresis nobody gave: near that of the mean pressure, and of use for signals of any unit.
HYSTERESIS: Final = 1 / 30
# Forecast limits. A threat is followed from so far below the log-odds that raise it (sustained: it must be there at the
# reading before already), and for so long.
FORECAST_ONSET: Final = 1.0
FORECAST_DELAY_S: Final = 30.0
# Of a limit that is further away than this share of it, the forecast's tail is not to be trusted. A threat is followed
# from further off: a fall shall not have to wait for its second reading within reach.
FORECAST_REACH: Final = 0.2
FORECAST_WATCH: Final = 0.3
# An open announcement tells anew when its probability has moved by more than this.
FORECAST_MATERIAL: Final = 0.1
# An anomaly is an alert when it goes on: single flags are in the forecasts for those who want them.
ANOMALY_DELAY_S: Final = 120.0
ANOMALY_RECOVER_S: Final = 300.0


class Rests(NamedTuple):
    """How long announcements rest, so that an episode is worth one."""

    # From when one was raised: as long as it counts for an episode, which begins 5 to 60 min after it. What threatens
    # still is then announced anew.
    raised_s: float = 3300.0
    # From when the value was last beyond its limit for as long as the limit's delay: that it may come back so soon is
    # known.
    known_s: float = 1380.0


RESTS: Final = Rests()


class LimitRule(NamedTuple):
    """One side of a signal's limits, ready to be looked at."""

    signal: str
    side: Side
    mild: float
    severe: float | None
    limits: SignalLimits
    limit_key: AlertKey
    forecast_key: AlertKey
    threshold: float  # log-odds that raise a forecast limit
    rests: Rests

    def is_beyond(self, value: float, margin: float = 0.0) -> bool:
        """Whether `value` is beyond the mild limit, or nearer to it than `margin`."""
        return value < self.mild + margin if self.side == "low" else value > self.mild - margin

    @property
    def hysteresis(self) -> float:
        """By how much a value that has recovered is inside the limit."""
        given = self.limits.hysteresis
        return HYSTERESIS * abs(self.mild) if given is None else given

    def is_severe(self, value: float) -> bool:
        """Whether `value` is beyond the severe limit."""
        if self.severe is None:
            return False
        return value < self.severe if self.side == "low" else value > self.severe


class LimitRules(NamedTuple):
    """The rules of a stay, and what they can have an alert about."""

    each: tuple[LimitRule, ...]
    keys: frozenset[AlertKey]

    @classmethod
    def of(cls, rules: Iterable[LimitRule]) -> LimitRules:
        """The rules with their keys."""
        each = tuple(rules)
        return cls(each, frozenset(key for rule in each for key in (rule.limit_key, rule.forecast_key)))

    def concerning(self, signals: Collection[str]) -> LimitRules:
        """Those of some signals; what they can have an alert about stays the same."""
        return self._replace(each=tuple(rule for rule in self.each if rule.signal in signals))


def limit_rules(limits: Mapping[str, SignalLimits], rests: Rests = RESTS) -> LimitRules:
    """The rules for `limits`, by signal; a side without a limit has none."""
    sides: tuple[Side, ...] = "low", "high"
    return LimitRules.of(
        LimitRule(
            signal,
            side,
            mild,
            own.severe_low if side == "low" else own.severe_high,
            own,
            AlertKey("limit", signal, side),
            AlertKey("forecast_limit", signal, side),
            log_odds(own.forecast_probability),
            rests,
        )
        for signal, own in limits.items()
        for side, mild in zip(sides, (own.low, own.high), strict=True)
        if mild is not None
    )


def look(
    entries: Entries,
    seen: Observation,
    rules: LimitRules,
    offset: int,
    held: Counter[str],
    score_of: Callable[[Collection[str | None]], Judgement] | None = None,
) -> list[Transition]:
    """Move a stay's alerts by what all rules say of the reading at `offset`; `entries` is changed in place.

    held : counts what was held back. score_of : NEWS2, given the signals to leave out; None: not asked for.
    """

    def move(found: Iterable[Finding]) -> list[Transition]:
        return life.step(entries, found, life.Moment(seen.at_us, offset, held, seen.care_unit))

    # Technical faults first: they tell which signals can be believed.
    transitions = move(technical.findings(entries, seen))
    suspect = technical.suspects(entries)
    _follow_known(entries, seen, rules.each)
    return transitions + move(_findings(entries, seen, rules, suspect, score_of and score_of(suspect)))


def _follow_known(entries: Entries, seen: Observation, rules: Sequence[LimitRule]) -> None:
    """Follow values beyond their limits; from when that lasts, announcements rest."""
    for rule in rules:
        value = seen.values.get(rule.signal)
        if value is None or (rule.signal, rule.side) not in seen.outlooks:
            continue
        entry, is_beyond = entries.get(rule.forecast_key), rule.is_beyond(value)
        if entry is not None:
            entry.judge(seen.at_us)  # beyond the limit nothing is found, but the value is there
        if is_beyond or (entry is not None and entry.known is not None):
            entry = entries.setdefault(rule.forecast_key, AlertEntry())
            known = entry.known or Excursion()
            follow(known, seen.at_us, is_on=is_beyond)
            entry.known = known if known.since_us != NEVER else None
            if is_beyond and _is_confirmed(known, rule, seen.at_us):
                entry.rested_until_us = max(entry.rested_until_us, seen.at_us + int(rule.rests.known_s * SECOND_US))


def _is_confirmed(known: Excursion, rule: LimitRule, at_us: int) -> bool:
    """Whether the value has been beyond the limit for as long as it takes to raise its alert."""
    return at_us - known.since_us >= rule.limits.delay_of(rule.side) * SECOND_US


def _findings(
    entries: Entries,
    seen: Observation,
    rules: LimitRules,
    suspect: Collection[str | None],
    score: Judgement | None,
) -> Iterator[Finding]:
    for finding in chain(_limits(entries, seen, rules.each), _anomaly(entries, seen)):
        if finding.key.signal in suspect:
            finding.held = "suspect"
        yield finding
    yield from _without_limit(entries, rules.keys)
    if (of_score := news2_alert.finding(entries, score)) is not None:
        yield of_score


def _limits(entries: Entries, seen: Observation, rules: Iterable[LimitRule]) -> Iterator[Finding]:
    """What each rule says, the value before its forecast: what it raises, that has to know."""
    for rule in rules:
        for judge in (_limit, _forecast_limit):
            if (finding := judge(entries, seen, rule)) is not None:
                yield finding


def _without_limit(entries: Entries, ruled: Collection[AlertKey]) -> Iterator[Finding]:
    """An end to what was reported of a limit that is no longer there: lifted, another care unit, other settings."""
    for key in [key for key in entries if key.kind in ("limit", "forecast_limit") and key not in ruled]:
        entries[key].known = None
        yield Finding(key, "off", "medium")


def _limit(entries: Entries, seen: Observation, rule: LimitRule) -> Finding | None:
    entry, value, limits = entries.get(rule.limit_key), seen.values.get(rule.signal), rule.limits
    if entry is None and (value is None or not rule.is_beyond(value)):
        return None
    last = seen.last.get(rule.signal)
    is_severe = value is not None and rule.is_severe(value)
    if value is None:
        presence: Presence = "unknown"
    else:
        presence = "on" if rule.is_beyond(value, rule.hysteresis if is_open(entry) else 0.0) else "off"
    return Finding(
        rule.limit_key,
        presence,
        "medium",
        limits.delay_of(rule.side),
        limits.recover_s,
        data_lost_s=limits.data_lost_s,
        rearm_s=limits.rearm_s,
        severe_delay_s=limits.severe_delay_s if is_severe else None,
        severe_gap_s=limits.data_lost_s if rule.signal in SPOT_SIGNALS else BREAK_US / SECOND_US,
        evidence={"limit": rule.severe if is_severe else rule.mild, "last": last},
        hold_s=HOLD_S if last is not None and rule.is_beyond(last) else 0.0,  # the limit may have moved since
        limit=rule.mild,
    )


def _forecast_limit(entries: Entries, seen: Observation, rule: LimitRule) -> Finding | None:
    key, entry, value = rule.forecast_key, entries.get(rule.forecast_key), seen.values.get(rule.signal)
    ahead = seen.outlooks.get((rule.signal, rule.side))
    if value is None or ahead is None:
        return None if entry is None else Finding(key, "unknown", "medium")
    if rule.is_beyond(value):
        # The limit rule speaks; the announcement stands until that is confirmed, though an alert may be open still.
        known = None if entry is None else entry.known
        if known is None or not _is_confirmed(known, rule, seen.at_us):
            return None
        return Finding(key, "off", "medium", came_true_us=known.since_us)
    away, scale = abs(value - rule.mild), abs(rule.mild)
    if is_open(entry):
        is_on = ahead >= rule.threshold
    else:
        is_on = ahead >= rule.threshold - FORECAST_ONSET and away <= FORECAST_WATCH * scale
    if entry is None and not is_on:
        return None
    probability = round(probability_of(ahead), 2)
    evidence = {"limit": rule.mild, "horizon_s": seen.horizon_s, "probability": probability, "last": value}
    return Finding(
        key,
        "on" if is_on else "off",
        "medium",
        FORECAST_DELAY_S,
        rearm_s=rule.rests.raised_s,
        renews=True,
        evidence=evidence,
        is_enough=ahead >= rule.threshold and away <= FORECAST_REACH * scale,
        held=_budget_holds(seen, ahead - rule.threshold),
        figure=probability,
        material=FORECAST_MATERIAL,
        limit=rule.mild,
    )


def _budget_holds(seen: Observation, excess: float) -> HoldReason | None:
    """Whether advice that is `excess` log-odds above its threshold is too much for the budget."""
    return None if seen.may_advise and excess >= seen.shift else "budget"


def _anomaly(entries: Entries, seen: Observation) -> Iterator[Finding]:
    for signal in seen.flagged:
        yield _anomaly_of(AlertKey("anomaly", signal), seen, is_on=True)
    for key in [key for key in entries if key.kind == "anomaly" and key.signal not in seen.flagged]:
        yield _anomaly_of(key, seen, is_on=False)


def _anomaly_of(key: AlertKey, seen: Observation, *, is_on: bool) -> Finding:
    score = seen.scores.get(key.signal or "")
    evidence: dict[str, Any] = {}
    if score is not None:
        evidence = {"score": round(score, 3), "last": seen.values.get(key.signal or "")}
    presence: Presence = "on" if is_on else "off" if score is not None else "unknown"
    return Finding(
        key,
        presence,
        "low",
        ANOMALY_DELAY_S,
        ANOMALY_RECOVER_S,
        evidence=evidence,
        held=_budget_holds(seen, log_odds(score) - log_odds(FLAG_SCORE)) if score is not None else None,
    )
