"""The life of a stay's alerts: conditions that hold long enough are raised, change, and are cleared when they end.

A rule (`alerts.rules`) says of a condition whether it is on, off, or cannot be told. `step` keeps each condition's
history in an `AlertEntry` and returns the transitions. Pure: time is the reading's.

             on for delay_s            off for recover_s
    (none) --------------> raised ----------------------> cleared (recovered)
                             |  ^ priority or care unit changed, or a day has passed: updated
                             |  ^ renews, and its rest is over: cleared (superseded) and raised anew
                             +--> cannot be told for data_lost_s: cleared (data_lost)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from schemas.alert import AlertState, ClearReason, Priority
from stream_worker.alerts.entries import TOLD_EVERY_S, AlertEntry, AlertKey, Excursion
from stream_worker.times import NEVER, SECOND_US

Presence = Literal["on", "off", "unknown"]
# suspect: its signal's sensor is. rearm: the same was raised of late, or is known. budget: enough was raised already.
HoldReason = Literal["suspect", "rearm", "budget"]

# Up to this share of an excursion the value may be back inside: a brief return does not end it (the definition of an
# episode in docs/alerts.md asks for nine tenths).
RETURN_SHARE: Final = 0.1
# Who works where a stay goes to is told of its open alerts after so long, and not each time that two devices, which
# disagree on where it is, send by turns.
ELSEWHERE_S: Final = 60.0


@dataclass(slots=True)
class Finding:
    """What a rule says of one condition at one reading."""

    key: AlertKey
    presence: Presence
    priority: Priority
    delay_s: float = 0.0
    recover_s: float = 0.0
    data_lost_s: float = 900.0
    rearm_s: float = 0.0
    severe_delay_s: float | None = None  # given: the value is severe, and of high priority if that lasts so long
    severe_gap_s: float = 0.0  # with more than this between two severe values their time begins anew
    evidence: dict[str, Any] = field(default_factory=dict)
    since_us: int | None = None  # if it began before this reading
    is_seen: bool = True  # False: it is on because nothing is seen of its signal
    is_enough: bool = True  # False: it goes on, but not so that it is worth an alert now
    renews: bool = False  # an open alert that is still due when its rest is over is raised anew
    hold_s: float = 0.0  # unknown: for so long the last value is taken to hold
    held: HoldReason | None = None  # why it is not to be raised now
    figure: float | None = None  # an open alert is updated when this moves by `material` from what was last told
    material: float = 0.0
    moved_delay_s: float = 0.0  # and that lasts so long
    limit: float | None = None  # likewise when this is another one
    came_true_us: int | None = None  # announced: since when the value is beyond the limit, where that is confirmed


class Successor(NamedTuple):
    """The open alert that takes an announcement's place."""

    key: AlertKey
    raised_offset: int


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
    evidence: dict[str, Any]
    clear_reason: ClearReason | None = None
    superseded_by: Successor | None = None
    lead_time_s: float | None = None


Entries = dict[AlertKey, AlertEntry]


class Moment(NamedTuple):
    """The reading at which something was found."""

    at_us: int
    offset: int
    held: Counter[str]  # counts what was held back
    care_unit: str | None = None  # where the stay is


def step(entries: Entries, findings: Iterable[Finding], moment: Moment) -> list[Transition]:
    """Move a stay's alerts by what was found at one reading; `entries` is changed in place."""
    transitions: list[Transition] = []
    for finding in findings:
        if finding.held == "suspect" and finding.presence != "unknown" and is_open(entries.get(finding.key)):
            transitions.extend(_stand(entries[finding.key], finding, moment))
        elif finding.came_true_us is not None:
            transitions.extend(_supersede(entries, finding.key, finding.came_true_us, moment.at_us))
        elif renewed := _renew(entries, finding, moment):
            transitions.extend(renewed)
        elif transition := _move(entries, finding, moment):
            transitions.append(transition)
            if transition.state == "raised" and finding.key.kind == "limit":
                transitions.extend(_supersede(entries, finding.key, transition.since_us, moment.at_us))
    return transitions


def is_open(entry: AlertEntry | None) -> bool:
    """Whether there is an entry and it is an open alert."""
    return entry is not None and entry.raised_offset is not None


def close(entries: Entries, at_us: int, reason: ClearReason) -> list[Transition]:
    """Clear all of a stay's alerts and forget its excursions."""
    transitions = [
        _cleared(key, entry, at_us, reason) for key, entry in entries.items() if entry.raised_offset is not None
    ]
    entries.clear()
    return transitions


NO_DATA: Final = AlertKey("technical", None, None, "no_data")


def lose_data(entries: Entries, newest_us: int, stale_after_s: float, offset: int) -> list[Transition]:
    """Raise no_data for a stay whose last reading, at `offset`, is `stale_after_s` old. The same alert whoever noticed.

    Nothing else is known of the stay any more: its other alerts are cleared as data_lost. What rests goes on resting.
    """
    at_us = newest_us + int(stale_after_s * SECOND_US)
    lost = []
    for key, entry in [*entries.items()]:
        if entry.raised_offset is not None:
            lost.append(_cleared(key, entry, at_us, "data_lost"))
        entry.known = None
        _rest(entries, key, at_us)
    entry = entries[NO_DATA] = AlertEntry(since_us=newest_us, priority="low", raised_offset=offset)
    return [*lost, _transition(NO_DATA, entry, at_us, "raised", {"silent_s": stale_after_s})]


def _move(entries: Entries, finding: Finding, moment: Moment) -> Transition | None:
    at_us = moment.at_us
    entry = entries.get(finding.key)
    if entry is None:
        if finding.presence != "on":
            return None
        entry = entries[finding.key] = AlertEntry(priority=finding.priority)
    if finding.presence == "unknown":
        return _move_unknown(entries, finding, entry, moment)
    entry.judge(at_us)
    found_us = entry.found_us
    if finding.severe_delay_s is None:
        entry.severe_since_us = None
    elif entry.severe_since_us is None or at_us - found_us > finding.severe_gap_s * SECOND_US:
        entry.severe_since_us = at_us
    if finding.presence == "on" and finding.is_seen:
        entry.found_us = max(found_us, at_us)
    is_high = finding.severe_delay_s is not None and _lasts(entry.severe_since_us, at_us, finding.severe_delay_s)
    if entry.raised_offset is not None:
        return _move_open(entries, finding, entry, moment, is_high=is_high, found_us=found_us)
    follow(entry, at_us, is_on=finding.presence == "on", since_us=finding.since_us)
    if entry.since_us == NEVER:
        entry.is_held = False
        _forget_if_idle(entries, finding.key, entry, at_us)
        return None
    is_due = is_high or _lasts(entry.since_us, at_us, finding.delay_s)
    if finding.presence == "off" or not is_due:
        return None
    return _raise(entry, finding, moment, is_high=is_high)


def _is_new_day(entry: AlertEntry, at_us: int, found_us: int) -> bool:
    """Whether TOLD_EVERY_S, counted from when the alert was raised, has passed again since it was found last."""
    if entry.raised_us == NEVER:  # an earlier version raised it
        return False
    day, day_before = (max(0, us - entry.raised_us) // int(TOLD_EVERY_S * SECOND_US) for us in (at_us, found_us))
    return day > day_before


def _has_gone(entry: AlertEntry, moment: Moment) -> bool:
    """Note where the stay is: whether it has been for a while in another care unit than the one last told of."""
    if moment.care_unit == entry.care_unit:
        entry.elsewhere_since_us = None
    elif entry.elsewhere_since_us is None:
        entry.elsewhere_since_us = moment.at_us
    return _lasts(entry.elsewhere_since_us, moment.at_us, ELSEWHERE_S)


def _lasts(since_us: int | None, at_us: int, delay_s: float) -> bool:
    return since_us is not None and at_us - since_us >= delay_s * SECOND_US


def _forget_if_idle(entries: Entries, key: AlertKey, entry: AlertEntry, at_us: int) -> None:
    if at_us >= entry.rested_until_us and entry.known is None:
        del entries[key]


def _raise(entry: AlertEntry, finding: Finding, moment: Moment, *, is_high: bool = False) -> Transition | None:
    """Raise the alert that is due, unless it is to be held back."""
    at_us = moment.at_us
    if not finding.is_enough:
        return None
    reason = finding.held or ("rearm" if at_us < entry.rested_until_us and not is_high else None)
    if reason is not None:
        moment.held[reason] += not entry.is_held
        entry.is_held = True
        return None
    entry.is_held = False
    entry.priority = "high" if is_high else finding.priority
    entry.raised_offset, entry.raised_us = moment.offset, at_us
    entry.revision = 0
    entry.figure, entry.limit = finding.figure, finding.limit
    entry.tell_in(moment.care_unit)
    entry.rested_until_us = at_us + int(finding.rearm_s * SECOND_US)
    return _transition(finding.key, entry, at_us, "raised", finding.evidence)


def follow(excursion: Excursion, at_us: int, *, is_on: bool, since_us: int | None = None) -> None:
    """Keep account of when an excursion began, and of how long the value was back inside it.

    A reading holds until the next one, so time is counted alike at any rate. since_us : when it began, where known.
    """
    if excursion.since_us != NEVER and excursion.recovered_since_us is not None:
        away_us = excursion.returned_us + at_us - excursion.recovered_since_us
        if away_us > RETURN_SHARE * (at_us - excursion.since_us):
            excursion.since_us = NEVER
        elif is_on:
            excursion.returned_us, excursion.recovered_since_us = away_us, None
    if is_on and (excursion.since_us == NEVER or since_us is not None):
        excursion.since_us = at_us if since_us is None else since_us
        excursion.returned_us, excursion.recovered_since_us = 0, None
    elif not is_on and excursion.recovered_since_us is None:
        excursion.recovered_since_us = at_us
    if excursion.since_us == NEVER:
        excursion.returned_us, excursion.recovered_since_us = 0, None


def _stand(entry: AlertEntry, finding: Finding, moment: Moment) -> Iterator[Transition]:
    """What a sensor says that cannot be believed ends no open alert and changes none; it is told daily all the same."""
    at_us = moment.at_us
    entry.judge(at_us)
    is_due = _has_gone(entry, moment) or _is_new_day(entry, at_us, entry.found_us)
    if finding.came_true_us is None and is_due:
        entry.found_us, entry.severe_since_us = at_us, None
        entry.tell_in(moment.care_unit)
        entry.revision += 1
        yield _transition(finding.key, entry, at_us, "updated", finding.evidence)


def _move_open(
    entries: Entries, finding: Finding, entry: AlertEntry, moment: Moment, *, is_high: bool, found_us: int
) -> Transition | None:
    at_us = moment.at_us
    if finding.presence == "off":
        if entry.recovered_since_us is None:
            entry.recovered_since_us = at_us
        if not _lasts(entry.recovered_since_us, at_us, finding.recover_s):
            return None
        _rest(entries, finding.key, at_us, finding.rearm_s)
        return _cleared(finding.key, entry, at_us, "recovered", finding.evidence)
    entry.recovered_since_us = None
    becomes_high = is_high and entry.priority != "high"
    has_moved = finding.figure is not None and (
        entry.figure is None or abs(finding.figure - entry.figure) > finding.material
    )
    if not has_moved:
        entry.moved_since_us = None
    elif entry.moved_since_us is None:
        entry.moved_since_us = at_us
    has_moved = has_moved and _lasts(entry.moved_since_us, at_us, finding.moved_delay_s)
    if entry.limit is None:  # an earlier version did not keep it
        entry.limit = finding.limit
    # Another care unit's limit is told of when the stay is known to have gone there.
    is_limit_as_told = finding.limit == entry.limit or moment.care_unit != entry.care_unit
    is_as_told = not has_moved and is_limit_as_told
    is_told_anew = _has_gone(entry, moment) or _is_new_day(entry, at_us, found_us)
    if not becomes_high and is_as_told and not is_told_anew:
        return None
    if becomes_high:
        entry.priority = "high"  # and stays so: an alert that was severe is looked after until it is over
    entry.figure, entry.limit, entry.moved_since_us = finding.figure, finding.limit, None
    entry.tell_in(moment.care_unit)
    entry.revision += 1
    return _transition(finding.key, entry, at_us, "updated", finding.evidence)


def _rest(entries: Entries, key: AlertKey, at_us: int, rearm_s: float = 0.0) -> None:
    """Forget the alert, but not when the next of its kind may come.

    A limit rests from its recovery, for `rearm_s`. What only announces or advises rests from when it was raised.
    """
    entry = entries.pop(key)
    until_us = entry.rested_until_us
    if key.kind == "limit" and entry.raised_offset is not None:
        until_us = at_us + int(rearm_s * SECOND_US)
    if until_us > at_us or entry.known is not None:
        entries[key] = AlertEntry(priority=entry.priority, rested_until_us=until_us, known=entry.known)


def _move_unknown(entries: Entries, finding: Finding, entry: AlertEntry, moment: Moment) -> Transition | None:
    """This reading does not tell: what was known holds for a while, then nothing can be told any more."""
    at_us = moment.at_us
    if entry.judged_us == NEVER:  # an earlier version did not keep it, or it only rests
        entry.judge(at_us)
    if at_us - entry.judged_us < finding.data_lost_s * SECOND_US:
        # Two values at least that count: one alone is as likely to be the sensor that came off, or is doubted now.
        holds = entry.recovered_since_us is None and NEVER < entry.since_us < entry.found_us
        # An older reading that arrives late comes before the last value: nothing may be held of what has no hold_s.
        is_held_on = finding.hold_s > 0 and at_us - entry.found_us <= finding.hold_s * SECOND_US
        if entry.raised_offset is None and holds and is_held_on:
            is_due = _lasts(entry.since_us, at_us, finding.delay_s)
            return _raise(entry, finding, moment) if is_due else None
        return None
    if entry.raised_offset is None:
        entry.since_us, entry.known, entry.is_held = NEVER, None, False
        _forget_if_idle(entries, finding.key, entry, at_us)
        return None
    _rest(entries, finding.key, at_us)
    return _cleared(finding.key, entry, at_us, "data_lost", finding.evidence)


def _renew(entries: Entries, finding: Finding, moment: Moment) -> list[Transition]:
    """Supersede an open alert by a new one of the same, if that is due."""
    entry, at_us = entries.get(finding.key), moment.at_us
    if not finding.renews or finding.presence != "on" or entry is None or entry.raised_offset is None:
        return []
    if at_us < entry.rested_until_us:
        return []
    cleared = _cleared(finding.key, entry, at_us, "superseded")
    raised = _raise(entry, finding, moment)
    if raised is None:
        return []
    cleared.superseded_by = Successor(finding.key, raised.raised_offset)
    entry.since_us = raised.since_us = at_us  # it announces anew: what came before, the last one told
    return [cleared, raised]


def _supersede(entries: Entries, about: AlertKey, since_us: int, at_us: int) -> Iterator[Transition]:
    """An open limit alert ends the forecast alert that announced it, and tells by how much it was ahead.

    about : either of them.
    """
    key, limit_key = (AlertKey(kind, about.signal, about.side) for kind in ("forecast_limit", "limit"))
    announced, come_true = entries.get(key), entries.get(limit_key)
    if announced is None or announced.raised_offset is None or come_true is None or come_true.raised_offset is None:
        return
    _rest(entries, key, at_us)
    cleared = _cleared(key, announced, at_us, "superseded")
    cleared.superseded_by = Successor(limit_key, come_true.raised_offset)
    if announced.raised_us != NEVER:  # else an earlier version raised it, which did not keep when
        cleared.lead_time_s = max(0.0, (since_us - announced.raised_us) / SECOND_US)
    yield cleared


def _transition(
    key: AlertKey, entry: AlertEntry, at_us: int, state: AlertState, evidence: dict[str, Any]
) -> Transition:
    assert entry.raised_offset is not None  # callers have just set or checked it
    return Transition(
        key=key,
        state=state,
        revision=entry.revision,
        priority=entry.priority,
        since_us=entry.since_us,
        at_us=at_us,
        raised_offset=entry.raised_offset,
        evidence=evidence,
    )


def _cleared(
    key: AlertKey, entry: AlertEntry, at_us: int, reason: ClearReason, evidence: dict[str, Any] | None = None
) -> Transition:
    cleared = _transition(key, entry, at_us, "cleared", evidence or {})
    cleared.revision, cleared.clear_reason = entry.revision + 1, reason
    return cleared
