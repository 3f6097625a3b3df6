"""Recordings as steps: binning, plausibility, ages, truth, which origins count, and the split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.config import ForecasterConfig
from model.dataset import folds, from_readings, read_stay, scored_origins, split, steps_of, truth
from tests.model.synthetic import synthetic_recording, synthetic_stay

MINUTE = 60.0


def readings(
    config: ForecasterConfig, rows: list[tuple[float, dict[str, float]]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times (s) and values of sparse rows."""
    values = np.full((len(rows), len(config.inputs)), np.nan)
    for i, (_, row) in enumerate(rows):
        for name, value in row.items():
            values[i, config.input_index(name)] = value
    return np.array([time for time, _ in rows]), values


def test_readings_fall_into_epoch_steps(vitals: ForecasterConfig) -> None:
    # step        |0            |1            |2 (empty)    |3
    # readings     5: 80  50: 90  70: 100                    185: resp
    rows = [(5.0, {"hr": 80.0}), (50.0, {"hr": 90.0}), (70.0, {"hr": 100.0}), (185.0, {"resp": 20.0})]
    stay = from_readings("s", *readings(vitals, rows), vitals)
    hr, resp = vitals.input_index("hr"), vitals.input_index("resp")
    assert stay.length == 4
    assert stay.observed[:, hr].tolist() == [True, True, False, False]
    assert stay.x[:2, hr].tolist() == [85.0, 100.0]
    # As of 50, 70, 130 (70 + a step) and 185 s.
    assert stay.elapsed[:, hr].tolist() == [0.0, 0.0, 60.0, 115.0]
    assert stay.elapsed[:, resp].tolist() == [86_400.0, 86_400.0, 86_400.0, 0.0]


def test_artefacts_are_no_observation(vitals: ForecasterConfig) -> None:
    rows = [
        (0.0, {"hr": 0.0, "spo2": 101.0, "resp": 12.0}),
        (60.0, {"abp_sys": 80.0, "abp_dia": 90.0, "abp_mean": 85.0, "resp": 12.0}),
        (120.0, {"abp_sys": 120.0, "abp_dia": 60.0, "abp_mean": 80.0}),
    ]
    stay = from_readings("s", *readings(vitals, rows), vitals)
    names = [signal.name for signal in vitals.inputs]
    seen = [{name for name, yes in zip(names, row, strict=True) if yes} for row in stay.observed]
    assert seen == [{"resp"}, {"resp"}, {"abp_sys", "abp_dia", "abp_mean"}]


def test_readings_in_any_order_give_the_same_steps(vitals: ForecasterConfig) -> None:
    rows = [(MINUTE * i, {"hr": 80.0 + i, "resp": 15.0}) for i in range(30)]
    times, values = readings(vitals, rows)
    shuffled = np.random.default_rng(0).permutation(len(times))
    ours, theirs = (from_readings("s", times[o], values[o], vitals) for o in (np.arange(len(times)), shuffled))
    np.testing.assert_array_equal(ours.x, theirs.x)
    np.testing.assert_array_equal(ours.elapsed, theirs.elapsed)


def test_truth_is_the_value_one_horizon_later(vitals: ForecasterConfig) -> None:
    stay = synthetic_stay(vitals, 100, seed=1)
    hr = vitals.input_index("hr")
    later = truth(stay, vitals)[:, 0]
    for h, steps in enumerate(vitals.horizon_steps):
        for t in (0, 17, 39, 99):
            if t + steps < stay.length and stay.observed[t + steps, hr]:
                assert later[t, h] == stay.x[t + steps, hr]
            else:
                assert np.isnan(later[t, h])


def test_origins_need_their_signal_and_half_a_window(vitals: ForecasterConfig) -> None:
    rows = [(MINUTE * i, {"hr": 80.0} if i < 40 or i % 4 == 0 else {"resp": 15.0}) for i in range(140)]
    stay = from_readings("s", *readings(vitals, rows), vitals)
    hr = scored_origins(stay, vitals)[:, vitals.signals.index("hr")]
    observed = stay.observed[:, vitals.input_index("hr")]
    for t in range(stay.length):
        assert hr[t] == (t >= 59 and observed[t] and observed[t - 59 : t + 1].sum() >= 30)
    assert hr.any()


def test_a_recording_reads_as_its_readings(vitals: ForecasterConfig, tmp_path: Path) -> None:
    path = synthetic_recording(tmp_path, vitals, 50, seed=2)
    stay, same = read_stay(path, vitals), synthetic_stay(vitals, 50, seed=2)
    assert stay.stay_id == "synthetic-02"
    np.testing.assert_allclose(stay.x, same.x, atol=1e-4)
    np.testing.assert_array_equal(stay.observed, same.observed)


def test_steps_of_several_stays_are_those_of_each(vitals: ForecasterConfig) -> None:
    stays = [synthetic_stay(vitals, minutes, minutes) for minutes in (1300, 1100, 30)]
    seen = [0] * len(stays)
    for batch in steps_of(stays):
        for b in range(len(batch.x)):
            np.testing.assert_array_equal(batch.x[b], stays[b].x[batch.t])
            np.testing.assert_array_equal(batch.elapsed[b], stays[b].elapsed[batch.t])
            seen[b] += 1
    assert seen == [stay.length for stay in stays]


def test_splits_keep_stays_apart_and_do_not_move() -> None:
    paths = [Path(f"s{i:02d}.csv.gz") for i in range(13)]
    training, held_out = split(paths, 4, seed=1)
    assert len(held_out) == 4
    assert sorted(training + held_out) == paths
    assert split(list(reversed(paths)), 4, seed=1) == (training, held_out)
    parts = folds(paths, 5, seed=1)
    assert sorted(path for part in parts for path in part) == paths
    with pytest.raises(ValueError, match="hold out"):
        split(paths, 13, seed=1)
