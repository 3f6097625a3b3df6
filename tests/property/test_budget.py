"""The alert budget: whatever the chunks, and wherever a crash, the same alerts; no bed spends the ward's."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_worker.alerts import budget
from stream_worker.alerts.budget import MOST, Allowance, Budget
from stream_worker.times import DAY_US
from tests.property.courses import wards
from tests.records import Changelog, decoded, new_pipeline, process, reading, records

PER_DAY = 20.0


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller moves every five monitored minutes, and by much, so that short courses meet it often."""
    monkeypatch.setattr(budget, "STEP_US", 300_000_000)
    monkeypatch.setattr(budget, "GAIN", 1.0)
    monkeypatch.setattr(budget, "SLACK_DAYS", 0.0)


def left(stream: list[bytes], bounds: list[int], *, crashes: bool) -> tuple[list[dict[str, Any]], dict[bytes, bytes]]:
    """The alerts and the state that a stream leaves, cut at `bounds`; `crashes`: a new process goes on after each."""
    whole, changelog = records(stream), Changelog()
    worker = new_pipeline(alert_budget_per_patient_day=PER_DAY)
    alerts = []
    for first, last in pairwise([0, *bounds, len(whole)]):
        result = process(worker, whole[first:last])
        alerts += decoded(result.alerts)
        changelog.apply(result)
        if crashes:
            worker = changelog.recover(alert_budget_per_patient_day=PER_DAY)
    return alerts, changelog.newest


@pytest.mark.usefixtures("short_steps")
@given(wards(), st.lists(st.integers(0, 100), max_size=5), st.booleans())
@settings(max_examples=40)
def test_chunks_and_crashes_change_no_alert_under_a_budget(stream: list[bytes], cuts: list[int], crashes: bool) -> None:
    bounds = sorted({cut % len(stream) for cut in cuts})
    assert left(stream, bounds, crashes=crashes) == left(stream, [], crashes=False)


@pytest.mark.usefixtures("short_steps")
def test_the_budget_holds_back_advice_and_no_limit() -> None:
    # Jumps that no forecast expects, minutes of them, and a pressure that is severe in between.
    course = [reading("s", 60 * i, {"hr": 60 + 90 * (i // 7 % 2), "abp_mean": 45.0 + i % 2 / 10}) for i in range(60)]
    kinds, held = {}, {}
    for per_day in (0, 0.01):
        result = process(new_pipeline(alert_budget_per_patient_day=per_day), records(course))
        kinds[per_day] = Counter(a["kind"] for a in decoded(result.alerts) if a["state"] == "raised")
        held[per_day] = result.alerts_held["budget"]
    assert kinds[0.01]["anomaly"] < kinds[0]["anomaly"]
    assert held[0.01] > held[0] == 0
    assert kinds[0.01]["limit"] == kinds[0]["limit"] > 0


@given(st.lists(st.integers(0, 60), max_size=60))
def test_thresholds_stay_between_their_own_and_the_surest(raised: list[int]) -> None:
    controller = Budget()
    for number in raised:
        controller.raised = number
        controller.step(15.0)
        assert 0 <= controller.shift <= MOST + 1e-9


def test_a_ward_far_above_its_budget_becomes_stricter_and_is_forgiven() -> None:
    controller = Budget()
    controller.raised = 100
    controller.step(15.0)
    assert controller.shift == pytest.approx(MOST)
    for _ in range(10_000):
        controller.step(15.0)
    assert (controller.shift, controller.excess) == (0.0, 0.0)


def test_a_ward_at_its_budget_is_left_alone_whatever_the_clusters() -> None:
    controller = Budget()
    for raised in (20, 20, 0):  # two days' alerts in one are within the slack
        controller.raised = raised
        controller.step(15.0)
    assert controller.excess > 0
    assert controller.shift == 0.0


@pytest.mark.parametrize("per_day", [0.5, 5.0, 15.0, 20.0, 50.0])
def test_a_budget_that_is_overrun_for_long_is_as_far_as_its_prometheus_alert_asks(per_day: float) -> None:
    controller = Budget()
    for _ in range(1000):
        controller.raised = 1000
        controller.step(per_day)
    assert controller.shift == pytest.approx(MOST)  # deploy/prometheus/alerts.yml, VitalcastAdviceHeldBack


def test_one_bed_has_a_share_that_fills_with_its_own_time() -> None:
    allowance = Allowance.full(15.0, at_us=0)
    assert [allowance.spend(0, 15.0) for _ in range(17)] == [True] * 15 + [False] * 2
    assert not allowance.spend(DAY_US // 60, 15.0)  # 24 min: three quarters of one, at 45 a day
    assert allowance.at(DAY_US // 45 + DAY_US // 60, 15.0) == pytest.approx(1.0)
    assert allowance.at(DAY_US, 15.0) == 15.0
