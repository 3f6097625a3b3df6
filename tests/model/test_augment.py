"""Degraded copies: what is seen loses readings and gains delays, what is true stays."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from model.augment import (
    OFF_STEPS,
    SPEEDS,
    backwards,
    copies,
    degraded,
    elapsed_of,
    faster,
    irregular,
    rare,
    sensors_off,
)
from model.config import ForecasterConfig
from model.steps import NEVER_S
from schemas.signals import Signal
from tests.model.synthetic import ONE_SIGNAL, synthetic_stay


def test_copies_show_nothing_that_was_not_there(vitals: ForecasterConfig) -> None:
    stay = synthetic_stay(vitals, 3000, seed=1)
    found = list(copies([stay], vitals, np.random.default_rng(0)))
    assert len(found) > 1
    for copy in found:
        assert copy.whole is not None
        assert copy.seen.length == copy.whole.length >= vitals.context_steps
        assert (copy.whole.observed | ~copy.seen.observed).all()
        np.testing.assert_array_equal(copy.seen.x[copy.seen.observed], copy.whole.x[copy.seen.observed])
        assert (copy.seen.x[~copy.seen.observed] == 0).all()
    assert sum(copy.seen.observed.sum() for copy in found) < 0.95 * stay.observed.sum()


def test_a_monitor_of_whole_numbers_shows_a_signal_in_small_units_too() -> None:
    small = Signal(name="value", unit="1", low=0, high=1, precision=0.001)
    config = msgspec.structs.replace(ONE_SIGNAL, inputs=(small,))
    stay = synthetic_stay(config, 300)
    for seed in range(20):
        whole = degraded(stay, config, np.random.default_rng(seed)).whole
        assert whole is not None
        np.testing.assert_allclose(whole.x, stay.x, atol=0.0051)


def test_elapsed_is_the_age_of_the_last_value(vitals: ForecasterConfig) -> None:
    for seed in range(10):
        seen = degraded(synthetic_stay(vitals, 300, seed), vitals, np.random.default_rng(seed)).seen
        assert ((seen.elapsed >= 0) & (seen.elapsed <= NEVER_S)).all()
        assert (seen.elapsed[seen.observed] < vitals.step_s).all()
        later = ~seen.observed[1:] & (seen.elapsed[1:] < NEVER_S)
        np.testing.assert_allclose((seen.elapsed[1:] - seen.elapsed[:-1])[later], vitals.step_s, atol=1e-2)


def test_elapsed_by_hand() -> None:
    observed = np.array([[False], [True], [False], [True]])
    offset = np.array([[9.0], [20.0], [9.0], [0.0]], np.float32)
    assert elapsed_of(observed, offset, 60)[:, 0].tolist() == [NEVER_S, 20.0, 80.0, 0.0]


def test_rare_readings_age_until_the_next(vitals: ForecasterConfig) -> None:
    stay = synthetic_stay(vitals, 100, seed=1)
    whole = stay._replace(observed=np.ones_like(stay.observed))
    seen = rare(whole, 5, vitals).seen
    assert seen.observed.any(axis=1).tolist() == [t % 5 == 0 for t in range(100)]
    assert seen.elapsed[:, 0].tolist() == [60.0 * (t % 5) for t in range(100)]
    every = rare(stay, 1, vitals).seen
    np.testing.assert_array_equal(every.observed, stay.observed)
    np.testing.assert_array_equal(every.x, stay.x)


def test_irregular_readings_come_as_often_as_asked(vitals: ForecasterConfig) -> None:
    stay = synthetic_stay(vitals, 3000, seed=1)
    seen = irregular(stay, 3, vitals, np.random.default_rng(0)).seen
    share = seen.observed.sum(axis=0) / stay.observed.sum(axis=0)
    np.testing.assert_allclose(share, 1 / 3, atol=0.04)
    assert (seen.elapsed[seen.observed] < vitals.step_s).all()
    assert len(np.unique(seen.elapsed[seen.observed])) > 1000


def test_signals_of_a_group_lose_their_sensor_together(vitals: ForecasterConfig) -> None:
    off = sensors_off(synthetic_stay(vitals, 5000, seed=2), vitals, np.random.default_rng(1))
    sys, dia, mean, hr = (vitals.input_index(name) for name in ("abp_sys", "abp_dia", "abp_mean", "hr"))
    np.testing.assert_array_equal(off[:, sys], off[:, dia])
    np.testing.assert_array_equal(off[:, sys], off[:, mean])
    assert (off[:, sys] != off[:, hr]).any()
    assert off[:, hr].sum() >= OFF_STEPS[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_same_seed_same_copies(vitals: ForecasterConfig, seed: int) -> None:
    stay = synthetic_stay(vitals, 800, seed=3)
    ours, theirs = (list(copies([stay], vitals, np.random.default_rng(seed))) for _ in range(2))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.seen.x, b.seen.x)
        np.testing.assert_array_equal(a.seen.elapsed, b.seen.elapsed)


def test_a_stay_runs_backwards(vitals: ForecasterConfig) -> None:
    stay = synthetic_stay(vitals, 200, seed=4)
    found = backwards(stay, vitals)
    np.testing.assert_array_equal(found.x, stay.x[::-1])
    np.testing.assert_array_equal(found.observed, stay.observed[::-1])
    # Ages run forwards: an input is as old as the last value that this stay, not the recorded one, has shown.
    np.testing.assert_array_equal(found.elapsed == 0, found.observed)
    again = backwards(found, vitals)
    np.testing.assert_array_equal(again.x, stay.x)


def test_a_faster_stay_leaves_steps_out_and_shows_none_twice(vitals: ForecasterConfig) -> None:
    stay = synthetic_stay(vitals, 1000, seed=5)
    stay = stay._replace(x=np.arange(1000, dtype=np.float32)[:, None].repeat(stay.x.shape[1], axis=1))
    lengths = set()
    for seed in range(20):
        found = faster(stay, vitals, np.random.default_rng(seed))
        steps = found.x[:, 0].astype(int)
        assert set(np.diff(steps).tolist()) <= {1, 2}
        assert 1000 / SPEEDS[1] <= found.length <= 1 + 1000 / SPEEDS[0]
        np.testing.assert_array_equal(found.observed, stay.observed[steps])
        lengths.add(found.length)
    assert len(lengths) > 10
