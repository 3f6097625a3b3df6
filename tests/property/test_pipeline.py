"""Any stream of records, in any chunks, with a restart anywhere: the same as a naive model taking one at a time."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_worker.pipeline import ChunkResult, Pipeline
from tests.arithmetic_model import FORECAST, INPUTS, MANIFEST, ArithmeticPredictor
from tests.records import NOW_US, Changelog, decoded, event, new_pipeline, process, reading, records

STEP_S, GRACE_S = 60, 10
ORIGIN_S = NOW_US // 1_000_000 - 3600

# Times around step ends, repeats, disorder, gaps; few stays and values, so that they meet.
times = st.one_of(st.integers(0, 600), st.sampled_from([0, 50, 59, 60, 61, 69, 70, 71, 119, 120, 130, 180, 2500, 3000]))
vitals = st.dictionaries(st.sampled_from([*INPUTS, "nibp_sys"]), st.sampled_from([50, 60.5, 80, 97.3, 99]), min_size=1)
values = st.one_of(
    st.builds(reading, st.sampled_from("abc"), times, vitals),
    st.builds(reading, st.sampled_from("abc"), times, vitals),
    st.builds(reading, st.sampled_from("ab"), times, vitals, device_id=st.sampled_from(["m1", "m2"])),
    st.builds(event, st.sampled_from("abc"), times, st.just("ended")),
    st.just(b"{not json"),
    st.builds(reading, st.just("a"), times, st.just({"hr": -999})),
)
streams = st.lists(values, min_size=1, max_size=60)


def of_one_stay(*readings: tuple[int, dict[str, float]]) -> list[bytes]:
    """A stream of so many seconds and vitals."""
    return [reading("a", at_s, vitals) for at_s, vitals in readings]


ON_THE_VERGE = of_one_stay((70, {"hr": 80}), (59, {"hr": 81}), (129, {"hr": 82}), (69, {"hr": 83}), (130, {"hr": 84}))
OLDER_BUT_IN_TIME = of_one_stay((20, {"hr": 80}), (10, {"abp_mean": 80}), (62, {"abp_mean": 81}), (64, {"hr": 81}))
BOTH_OPEN_STEPS = of_one_stay((50, {"hr": 80}), (61, {"abp_mean": 80}), (57, {"spo2": 99}), (69, {"hr": 81}))
TWO_CLOSE_AT_ONCE = of_one_stay((10, {"hr": 80}), (65, {"hr": 90}), (185, {"abp_mean": 80}), (190, {"hr": 70}))
EMPTY_STEPS = of_one_stay((5, {"hr": 80}), (130, {"abp_mean": 80}), (500, {"hr": 81}), (3000, {"abp_mean": 81}))
LONG_WITHOUT_ONE = of_one_stay((-90_100, {"abp_mean": 80}), *((-18_000 * i, {"hr": 80.0}) for i in (5, 4, 3, 2, 1, 0)))
ONE_TIME = of_one_stay((10, {"hr": 80}), (10, {"hr": 90}), (10, {"hr": 80}), (70, {"spo2": 99}))


@dataclass
class NaiveStay:
    """A stay as its accepted readings; everything is worked out again from them each time."""

    accepted: list[tuple[int, str | None, dict[str, float]]] = field(default_factory=list)

    @property
    def newest(self) -> int:
        return max(t for t, _, _ in self.accepted)

    def outcome(self, t: int, device: str | None, vitals: dict[str, float]) -> str:
        if self.accepted:
            if (t // STEP_S + 1) * STEP_S <= self.newest - GRACE_S:
                return "late"
            if (t, device, vitals) in self.accepted[-8:]:
                return "duplicate"
        return "accepted"

    def step_value(self, step: int, signal: str) -> float | None:
        """Mean without the lowest and highest, from three values on, rounded to 0.1."""
        quanta = sorted(round(v[signal] * 10) for t, _, v in self.accepted if t // STEP_S == step and signal in v)
        if not quanta:
            return None
        if len(quanta) >= 3:
            quanta = quanta[1:-1]
        return round(sum(quanta) / len(quanta)) / 10

    def quantiles(self) -> torch.Tensor:
        """The model's quantiles now (V, H, Q), by running it over every step since the first reading."""
        model = ArithmeticPredictor()
        state = model.initial_state(1)
        quantiles = torch.empty(0)
        as_of = 0
        last: dict[str, float] = dict.fromkeys(INPUTS, -math.inf)
        first = min(
            (t for t, _, v in self.accepted if set(v) & set(INPUTS)), default=self.newest
        )  # nothing moves before
        for step in range(first // STEP_S, self.newest // STEP_S + 1):
            in_step = [(t, v) for t, _, v in self.accepted if t // STEP_S == step]
            as_of = max(t for t, _ in in_step) if in_step else as_of + STEP_S
            for signal in INPUTS:
                last[signal] = max([last[signal], *(t for t, v in in_step if signal in v)])
            seen = [self.step_value(step, signal) for signal in INPUTS]
            quantiles, state = model.step(
                torch.tensor([[0.0 if v is None else v for v in seen]]),
                torch.tensor([[v is not None for v in seen]]),
                torch.tensor([[min(86_400.0, as_of - last[signal]) for signal in INPUTS]]),
                state,
            )
        return quantiles[0]


class NaiveWorker:
    """One record at a time, no columns, no cache."""

    def __init__(self) -> None:
        self.stays: dict[str, NaiveStay] = {}

    def take(self, value: bytes) -> tuple[str, NaiveStay | None]:
        """The outcome of a record, and the stay that an accepted reading belongs to."""
        try:
            message = json.loads(value)
        except ValueError:
            return "rejected", None
        stay_id = message["stay_id"]
        if "event" in message:
            self.stays.pop(stay_id, None)
            return "event", None
        if message["vitals"] == {"hr": -999}:
            return "rejected", None
        at_s = round(datetime.fromisoformat(message["observed_at"]).timestamp()) - ORIGIN_S
        stay = self.stays.get(stay_id, NaiveStay())
        outcome = stay.outcome(at_s, message.get("device_id"), message["vitals"])
        if outcome == "accepted":
            stay.accepted.append((at_s, message.get("device_id"), message["vitals"]))
            self.stays[stay_id] = stay
        return outcome, stay


def take_in_chunks(pipeline: Pipeline, stream: list[bytes], cuts: list[int]) -> list[ChunkResult]:
    """The results of a stream cut into chunks."""
    bounds = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    whole = records(stream)
    return [process(pipeline, whole[first:last]) for first, last in pairwise(bounds)]


def published(results: list[ChunkResult]) -> dict[str, list[dict[str, Any]]]:
    """What a consumer sees of results, by topic."""
    return {
        topic: [message for result in results for message in decoded(getattr(result, topic))]
        for topic in ("forecasts", "alerts", "dead_letters")
    }


@given(streams, st.lists(st.integers(0, 100), max_size=4))
@example(ON_THE_VERGE, [])
@example(OLDER_BUT_IN_TIME, [1, 2, 3])
@example(BOTH_OPEN_STEPS, [])
@example(TWO_CLOSE_AT_ONCE, [])
@example(EMPTY_STEPS, [2])
@example(LONG_WITHOUT_ONE, [])
@example(ONE_TIME, [])
@settings(max_examples=120)
def test_any_stream_in_any_chunks_leaves_what_a_naive_worker_leaves(stream: list[bytes], cuts: list[int]) -> None:
    pipeline, naive = new_pipeline(grace_s=GRACE_S), NaiveWorker()
    results = take_in_chunks(pipeline, stream, cuts)
    forecasts = {message["source"]["offset"]: message for message in published(results)["forecasts"]}
    outcomes: Counter[str] = Counter()
    for offset, value in enumerate(stream):
        outcome, stay = naive.take(value)
        outcomes[outcome] += 1
        if outcome != "accepted" or stay is None:
            assert offset not in forecasts
            continue
        forecast = forecasts[offset]
        issued_s = datetime.fromisoformat(forecast["issued_at"]).timestamp() - ORIGIN_S
        assert issued_s == stay.newest
        quantiles = stay.quantiles()
        first_of_window = (stay.newest // STEP_S - MANIFEST.context_steps + 1) * STEP_S
        for v, signal in enumerate(FORECAST):
            seen = {t: values[signal] for t, _, values in stay.accepted if signal in values}  # the last of equal times
            assert (signal in forecast["signals"]) == (bool(seen) and max(seen) >= first_of_window)
            if signal in forecast["signals"]:
                assert forecast["signals"][signal]["last"] == seen[max(seen)]
                assert forecast["signals"][signal]["quantiles"] == quantiles[v].tolist()
    assert sum((result.outcomes for result in results), Counter()) == outcomes


def last_closed(newest_s: int) -> int:
    """The last step that is closed by then."""
    return (newest_s - GRACE_S) // STEP_S - 1


@given(streams, st.lists(st.integers(0, 100), max_size=4))
@example(ON_THE_VERGE, [])
@settings(max_examples=40)
def test_one_forecast_a_step_is_that_of_the_reading_that_closes_it(stream: list[bytes], cuts: list[int]) -> None:
    expected, found = (take_in_chunks(new_pipeline(emit=emit), stream, cuts) for emit in ("reading", "step"))
    closing, naive = set(), NaiveWorker()
    for offset, value in enumerate(stream):
        newest_s = {stay_id: stay.newest for stay_id, stay in naive.stays.items()}
        outcome, stay = naive.take(value)
        if outcome == "accepted" and stay is not None:
            before_s = newest_s.get(json.loads(value)["stay_id"], stay.newest)  # the first one closes nothing
            closing |= {offset} if last_closed(stay.newest) > last_closed(before_s) else set()
    ours, theirs = published(found), published(expected)
    assert ours.pop("forecasts") == [f for f in theirs.pop("forecasts") if f["source"]["offset"] in closing]
    assert ours == theirs
    assert state_of(found) == state_of(expected)


@given(streams, st.lists(st.integers(0, 100), max_size=6), st.lists(st.integers(0, 100), max_size=6))
@settings(max_examples=60)
def test_chunking_changes_nothing(stream: list[bytes], cuts: list[int], other_cuts: list[int]) -> None:
    first, second = new_pipeline(), new_pipeline()
    results, others = take_in_chunks(first, stream, cuts), take_in_chunks(second, stream, other_cuts)
    assert published(results) == published(others)
    assert state_of(results) == state_of(others)


@given(streams, st.integers(0, 100))
@settings(max_examples=60)
def test_a_restart_anywhere_changes_nothing(stream: list[bytes], crash: int) -> None:
    whole, at = records(stream), crash % (len(stream) + 1)
    undisturbed = process(new_pipeline(), whole)
    changelog, first = Changelog(), new_pipeline()
    before = process(first, whole[:at])
    changelog.apply(before)
    after = process(changelog.recover(), whole[at:])
    assert published([before, after]) == published([undisturbed])
    assert state_of([before, after]) == state_of([undisturbed])


@given(streams, st.integers(0, 100))
@settings(max_examples=30)
def test_records_that_are_handed_over_again_are_skipped(stream: list[bytes], again: int) -> None:
    whole, pipeline = records(stream), new_pipeline()
    process(pipeline, whole)
    repeated = process(pipeline, whole[again % len(stream) :])
    assert published([repeated]) == {"forecasts": [], "alerts": [], "dead_letters": []}
    assert not repeated.state
    assert not repeated.outcomes


def state_of(results: list[ChunkResult]) -> dict[bytes, bytes]:
    """The compacted changelog."""
    changelog = Changelog()
    for result in results:
        changelog.apply(result)
    return changelog.newest


@given(streams)
@settings(max_examples=30)
def test_later_records_never_change_a_forecast(stream: list[bytes]) -> None:
    half = len(stream) // 2
    short = published([process(new_pipeline(), records(stream[:half]))])
    long = published([process(new_pipeline(), records(stream))])
    assert long["forecasts"][: len(short["forecasts"])] == short["forecasts"]
    assert long["alerts"][: len(short["alerts"])] == short["alerts"]
