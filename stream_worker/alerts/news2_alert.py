"""NEWS2 of a stay: its inputs are kept as they come, each for as long as it may stand, and the score is an alert."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, NamedTuple

from schemas.reading import Observations
from stream_worker.alerts.entries import AlertKey
from stream_worker.alerts.life import Entries, Finding
from stream_worker.alerts.news2 import URGENT, Known, News2, news2
from stream_worker.alerts.observation import BySignal
from stream_worker.times import SECOND_US

KEY: Final = AlertKey("news2")

# For how long an input stands. Monitored ones: as long as a limit's value; a cuff measures every hour at least; what a
# nurse charts: the longest interval between observations that the Royal College gives, 12 h.
_MONITORED_S: Final = 900.0
_CUFF_S: Final = 3600.0
_CHARTED_S: Final = 43_200.0
_OBSERVED: Final = frozenset(Observations.__struct_fields__)
VALID_S: Final = {
    "resp": _MONITORED_S,
    "spo2": _MONITORED_S,
    "abp_sys": _MONITORED_S,
    "nibp_sys": _CUFF_S,
    "hr": _MONITORED_S,
    "pulse": _MONITORED_S,
    "temp": _CHARTED_S,
    "consciousness": _CHARTED_S,
    "oxygen": _CHARTED_S,
}
# A score is made for observations taken at rest: what does not last is not one.
DELAY_S: Final = 300.0
RECOVER_S: Final = 900.0
# The chart asks for a new score within the hour from 5 points on.
REARM_S: Final = 3600.0
# When inputs become too old, the alert that they raised ends after so long. What is too old for longer than twice that
# says nothing any more.
LOST_S: Final = 900.0
MATERIAL: Final = 1.0  # an open alert tells anew when the score has moved by more than this

Inputs = dict[str, tuple[float | str, int]]  # value and time by name


def remember(inputs: Inputs, at_us: int, values: BySignal, observations: Observations | None) -> None:
    """Take over what a reading tells."""
    for name in VALID_S:
        # A model may declare a signal of the same name: what a nurse charts is in words, and no number.
        value: float | str | None = getattr(observations, name, None) if name in _OBSERVED else values.get(name)
        if value is not None and (name not in inputs or at_us >= inputs[name][1]):
            inputs[name] = (value, at_us)


class Judgement(NamedTuple):
    """A score at one reading."""

    score: News2
    may_go_on: bool  # it raises no alarm, but would if inputs that are too old or in doubt since lately still held


def score_of(inputs: Inputs, at_us: int, spo2_scale: int | None, suspect: Collection[str | None]) -> Judgement:
    """The score at `at_us` by what is valid then."""
    too_old_s = {name: (at_us - seen_us) / SECOND_US - VALID_S[name] for name, (_, seen_us) in inputs.items()}
    valid = _known(
        {
            name: value
            for name, (value, _) in inputs.items()
            if (name in _OBSERVED or name not in suspect) and too_old_s[name] <= 0
        }
    )
    scale: Literal[1, 2] = 2 if spo2_scale == 2 else 1
    score = news2(valid, scale)
    if score.priority is not None:
        return Judgement(score, may_go_on=False)
    last = _known({name: value for name, (value, _) in inputs.items() if too_old_s[name] <= 2 * LOST_S})
    filled = Known._make(old if now is None else now for now, old in zip(valid, last, strict=True))
    return Judgement(score, may_go_on=news2(filled, scale).priority is not None)


def _known(inputs: Mapping[str, Any]) -> Known:
    """The arterial line goes before the cuff, the heart rate before the pulse."""
    return Known(
        resp=inputs.get("resp"),
        spo2=inputs.get("spo2"),
        oxygen=inputs.get("oxygen"),
        systolic=inputs.get("abp_sys", inputs.get("nibp_sys")),
        pulse=inputs.get("hr", inputs.get("pulse")),
        consciousness=inputs.get("consciousness"),
        temp=inputs.get("temp"),
    )


def finding(entries: Entries, judged: Judgement | None) -> Finding | None:
    """What the score says, if it is asked for; it alarms on its lower end only."""
    if judged is None:  # no longer: what it raised before has to end
        return Finding(KEY, "off", "medium") if KEY in entries else None
    score = judged.score
    if score.priority is None and KEY not in entries:
        return None
    evidence = {
        "score": score.lower,
        "upper": score.upper,
        "points": dict(score.points),
        "missing": list(score.missing),
        "threshold": URGENT,
    }
    return Finding(
        KEY,
        "on" if score.priority is not None else "unknown" if judged.may_go_on else "off",
        "medium",
        DELAY_S,
        RECOVER_S,
        data_lost_s=LOST_S,
        rearm_s=REARM_S,
        severe_delay_s=DELAY_S if score.priority == "high" else None,
        severe_gap_s=_MONITORED_S,
        evidence=evidence,
        figure=float(score.lower),
        material=MATERIAL,
        moved_delay_s=DELAY_S,
    )
