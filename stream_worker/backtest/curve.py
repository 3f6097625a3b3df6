"""Early warning judged on other stays than it was tuned on: recall against its price, and its probabilities."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from model.arrays import Floats
from stream_worker.alerts.outlook import SUREST, probability_of
from stream_worker.alerts.rules import RESTS, Rests
from stream_worker.backtest.episodes import HYPOTENSION, Recording, episodes_of
from stream_worker.backtest.measures import (
    WARNING_MIN,
    Bin,
    Times,
    Warned,
    Warnings,
    bins_of,
    plain_alerts,
    warned_by,
    warnings_of,
)
from stream_worker.backtest.threats import Threats, announced_at
from stream_worker.limits import SignalLimits
from stream_worker.times import MINUTE_US

# What is chosen on some stays for a recall mostly falls short of it on others, so the last is aimed at for 0.8.
RECALLS: Final = (0.5, 0.6, 0.7, 0.8, 0.82)
FOLDS: Final = 5
FEWEST_STAYS: Final = 2  # one to choose on, one to judge on
# Log-odds; from where nearly every minute is a threat to where almost none is.
THRESHOLDS: Final = tuple(np.round(np.arange(-3.4, -0.5, 0.1), 1).tolist())
# Thresholds and rests to choose among together.
RESTED: Final = tuple(
    product(
        [threshold for threshold in THRESHOLDS if -2.8 <= threshold <= -2.1],
        [Rests(60 * raised, 60 * known) for raised, known in product((50, 55, 60), (20, 23, 26))],
    )
)
# Plain rules to choose among: raised below `on`, cleared `above` it, not again within `rearm` min.
PLAIN: Final = tuple(product((66, 67, 68, 69, 70, 71, 72), (2, 4), (0, 30, 60)))
# Boosted trees with 64 features of the last 4 h, trained for this on 30 of the 40 stays of the Challenge 2009 and
# judged on the other 10, policy tuned on those: recall, alerts a day, precision, share of time open. Measured once.
TREES: Final = ((0.53, 3.3, 0.40, 0.04), (0.64, 4.8, 0.36, 0.06), (0.72, 5.7, 0.33, 0.08), (0.81, 7.2, 0.29, 0.09))


class Point(msgspec.Struct, frozen=True):
    """Early warning at the setting with the fewest alerts that reaches a recall.

    recall : asked for. warned : what came of it. settings : what was chosen, of each fold. unseen : what came of it on
    the stays that the model was not trained on, if it was on others.
    """

    recall: float
    warned: Warned
    settings: tuple[str, ...]
    unseen: Warned | None = None


class Curve(msgspec.Struct, frozen=True):
    """Points of the forecast rule, judged on other stays than it was tuned on, and of plain rules tuned on all.

    rested : the last point, with the rests chosen too. swept : the forecast rule on all stays at each threshold, by
    log-odds. calibration : probabilities fitted on other stays. fitted : intercept and slope of those fitted on all.
    """

    cross_validated: tuple[Point, ...]
    rested: Point | None
    plain: tuple[Point, ...]
    swept: Mapping[str, Warned]
    calibration: tuple[Bin, ...]
    fitted: tuple[float, float]


BySetting = Mapping[str, Mapping[str, Warnings]]  # by setting, then by stay


class Told(NamedTuple):
    """The announcements of a stay, (n,) each: at what log-odds they were raised, and whether they came true."""

    ahead: Floats
    is_true: NDArray[np.bool_]


def curve_of(
    recordings: Mapping[str, Recording],
    threats: Mapping[str, Threats],
    limits: SignalLimits,
    unseen: Collection[str] = (),
    track: Callable[[Sequence[tuple[float, Rests]]], Iterable[tuple[float, Rests]]] = lambda settings: settings,
) -> Curve | None:
    """The curve of the rule with `limits` but for its threshold, and its rests. `track` shows how far it is.

    unseen : the stays to be judged apart too. None of fewer than FEWEST_STAYS that the rule saw.
    """
    if len(threats) < FEWEST_STAYS:
        return None
    at_rest = [(threshold, RESTS) for threshold in THRESHOLDS]
    tried: dict[tuple[float, Rests], dict[str, Warnings]] = {}
    for threshold, rests in track([*at_rest, *(setting for setting in RESTED if setting not in at_rest)]):
        at_threshold = limits.model_copy(update={"forecast_probability": float(1 / (1 + np.exp(-threshold)))})
        tried[threshold, rests] = {
            stay_id: warnings_of(
                recordings[stay_id], _times(recordings[stay_id], threats[stay_id], at_threshold, rests)
            )
            for stay_id in sorted(threats)
        }
    table = {f"{threshold:g}": tried[threshold, rests] for threshold, rests in at_rest}
    rested = {
        f"{threshold:g}, {rests.raised_s:g} s, {rests.known_s:g} s": tried[threshold, rests]
        for threshold, rests in RESTED
    }
    plain = {
        f"below {on}, off {on + above}, rearm {rearm}": {
            stay_id: warnings_of(recording, plain_alerts(recording.values[HYPOTENSION.signal], on, on + above, rearm))
            for stay_id, recording in recordings.items()
        }
        for on, above, rearm in PLAIN
    }
    told = {stay_id: told_of(recordings[stay_id], threats[stay_id], limits) for stay_id in sorted(threats)}
    return Curve(
        tuple(point for recall in RECALLS if (point := cross_validated(table, recall, unseen))),
        cross_validated(rested, RECALLS[-1], unseen),
        tuple(point for recall in RECALLS if (point := _tuned(plain, recall))),
        {setting: warned_by(setting, of_stay.values()) for setting, of_stay in table.items()},
        calibrated(told),
        fit(told.values()),
    )


def _times(recording: Recording, threats: Threats, limits: SignalLimits, rests: Rests = RESTS) -> Times:
    """In minutes from the recording's start."""
    announced = announced_at(threats, limits, rests)
    return [(raised - recording.start, cleared - recording.start) for raised, cleared in announced]


def folds(stay_ids: Sequence[str]) -> Iterator[tuple[list[str], list[str]]]:
    """The stays to choose on, and those to judge on: FOLDS times, or once for each of fewer stays."""
    for fold in range(min(FOLDS, len(stay_ids))):
        left_out = list(stay_ids[fold::FOLDS])
        yield [stay_id for stay_id in stay_ids if stay_id not in left_out], left_out


def cross_validated(table: BySetting, recall: float, unseen: Collection[str] = ()) -> Point | None:
    """Settings chosen on four fifths of the stays, judged on the fifth; None if a recall cannot be reached."""
    stay_ids = sorted(next(iter(table.values())))
    judged: dict[str, Warnings] = {}
    chosen: list[str] = []
    for others, left_out in folds(stay_ids):
        setting = _fewest_alerts(table, others, recall)
        if setting is None:
            return None
        chosen.append(setting)
        judged |= {stay_id: table[setting][stay_id] for stay_id in left_out}
    apart = [warnings for stay_id, warnings in judged.items() if stay_id in unseen]
    return Point(
        recall,
        warned_by("forecast_limit", judged.values()),
        tuple(chosen),
        warned_by("forecast_limit", apart) if 0 < len(apart) < len(judged) else None,
    )


def _tuned(table: BySetting, recall: float) -> Point | None:
    setting = _fewest_alerts(table, list(next(iter(table.values()))), recall)
    return None if setting is None else Point(recall, warned_by(setting, table[setting].values()), (setting,))


def _fewest_alerts(table: BySetting, stay_ids: Sequence[str], recall: float) -> str | None:
    found = {setting: warned_by(setting, (of_stay[s] for s in stay_ids)) for setting, of_stay in table.items()}
    reach = [setting for setting, warned in found.items() if warned.strict >= recall]
    return min(reach, key=lambda setting: found[setting].alerts_per_day, default=None)


# --- probabilities ---


def told_of(recording: Recording, threats: Threats, limits: SignalLimits) -> Told:
    """The announcements that a stay would have had."""
    raised = np.array([raised for raised, _ in _times(recording, threats, limits)], np.float64)
    at = np.searchsorted(threats.at_us / MINUTE_US - recording.start, raised - 1e-6)
    begins = np.array([episode.start for episode in episodes_of(recording)])
    ahead = begins[:, None] - raised
    return Told(threats.ahead[at], np.any((ahead > 0) & (ahead <= WARNING_MIN[1]), axis=0))


def fit(told: Iterable[Told]) -> tuple[float, float]:
    """Intercept and slope of `alerts.outlook.probability_of`: logistic regression, by Newton's method.

    A weak ridge: there is an answer whatever came true, and without any announcement.
    """
    nothing = Told(np.empty(0), np.empty(0, np.bool_))
    ahead, is_true = (np.concatenate(column) for column in zip(nothing, *told, strict=True))
    x = np.column_stack([np.ones(len(ahead)), np.minimum(ahead, SUREST)])
    ridge = np.diag([0.1, 0.1])
    weights = np.zeros(2)
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ weights))
        weights += np.linalg.solve((x.T * (p * (1 - p))) @ x + ridge, x.T @ (is_true - p) - ridge @ weights)
    intercept, slope = np.round(weights, 3).tolist()
    return intercept, slope


def calibrated(told: Mapping[str, Told]) -> tuple[Bin, ...]:
    """Probabilities fitted on four fifths of the stays, and how often they came true on the fifth."""
    said: list[tuple[float, bool]] = []
    for others, left_out in folds(sorted(told)):
        calibration = fit(told[stay_id] for stay_id in others)
        for own in (told[stay_id] for stay_id in left_out):
            pairs = zip(own.ahead.tolist(), own.is_true.tolist(), strict=True)
            said += [(round(probability_of(ahead, calibration), 2), is_true) for ahead, is_true in pairs]
    return bins_of(said)
