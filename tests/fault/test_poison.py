"""Hostile records at full speed among good ones: nothing falls, the good ones are answered as if they were alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from model.manifest import DEFAULT_ARTIFACT
from model.predictor import Predictor
from stream_worker.pipeline import Pipeline
from stream_worker.settings import Settings
from tests.conftest import WorkerStarter
from tests.fault.hostile import hostile
from tests.fault.undisturbed import LAST_DIGIT
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, create_topics, produce, read_committed
from tests.patients import ward
from tests.records import decoded, records
from tests.waiting import eventually

HOSTILE = int(os.environ.get("VITALCAST_TEST_POISON", "10000"))
STAYS, MINUTES = 20, 200
TEN_MEGABYTES = 10_000_000


def mixed(good: list[Any], bad: Iterator[Any], bad_for_each: int) -> Iterator[Any]:
    """The good ones in order, hostile ones between them."""
    for record in good:
        yield record
        yield from (one for _, one in zip(range(bad_for_each), bad, strict=False))
    yield from bad


def alone(good: list[Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """What the good ones are answered when there is nothing else; by stay and time."""
    predictor = Predictor.load(DEFAULT_ARTIFACT)
    pipeline = Pipeline(Settings(), predictor)
    encoded = [json.dumps(value).encode() for _, value in good]
    answers = []
    for first in range(0, len(encoded), 500):
        chunk = records(encoded[first : first + 500], first)
        answers += decoded(pipeline.process({0: chunk}, time.time_ns() // 1000)[0].forecasts)
    return {(answer["stay_id"], answer["issued_at"]): answer for answer in answers}


@pytest.mark.timeout(240 + HOSTILE // 500)
def test_hostile_records_do_no_harm(kafka: Broker, start_worker: WorkerStarter) -> None:
    servers, topics = kafka.bootstrap_servers, Topics.unique()
    create_topics(servers, topics.readings, config={"max.message.bytes": str(2 * TEN_MEGABYTES)})
    create_topics(servers, *topics.outputs)
    create_topics(servers, topics.changelog, config={"cleanup.policy": "compact"})
    # Among a million hostile ones the good ones are fewer than the usual limit asks for.
    worker = start_worker(**topics.settings, dead_letter_limit=1.0)
    good = list(ward(STAYS, MINUTES))
    giants = [(b"giant", b"[" * TEN_MEGABYTES), (b"giant", b"\xff" * TEN_MEGABYTES)]
    sent = [*mixed(good, hostile(HOSTILE), HOSTILE // len(good)), *giants]
    produce(servers, topics.readings, sent, **{"message.max.bytes": 2 * TEN_MEGABYTES})

    def has_taken_all() -> bool:
        assert worker.is_running, worker.log[-2000:]
        return worker.metric("vitalcast_readings_total") == len(sent)

    eventually(has_taken_all, within_s=120 + HOSTILE // 1000)
    answers = [message.json() for message in read_committed(servers, topics.forecasts)]
    letters = [message.json() for message in read_committed(servers, topics.dead_letters)]
    assert all(message.json() for message in read_committed(servers, topics.alerts))  # JSON, whatever limits were set
    assert len(answers) == worker.metric("vitalcast_forecasts_total")
    assert len({tuple(letter["source"].values()) for letter in letters}) == len(letters) > HOSTILE / 2
    assert {letter["reason"] for letter in letters} == {"too_large", "malformed", "schema", "future", "empty", "late"}
    expected = alone(good)
    unharmed = {(a["stay_id"], a["issued_at"]): a for a in answers if a["stay_id"].startswith("stay-1-")}
    assert unharmed.keys() == expected.keys()
    for key, answer in unharmed.items():
        assert answer["status"] == expected[key]["status"]
        for name, signal in expected[key]["signals"].items():
            found = answer["signals"][name]
            assert (found["last"], found["last_at"]) == (signal["last"], signal["last_at"])
            np.testing.assert_allclose(found["quantiles"], signal["quantiles"], rtol=0, atol=LAST_DIGIT)
    assert worker.log.count("model_loaded") == 1


def test_what_is_sent_twice_ends_no_worker(kafka: Broker, start_worker: WorkerStarter) -> None:
    servers, topics = kafka.bootstrap_servers, Topics.unique()
    topics.create(servers, partitions=1)
    sent = [*ward(20, 550)] * 2
    produce(servers, topics.readings, sent)
    worker = start_worker(**topics.settings)
    eventually(lambda: worker.metric("vitalcast_readings_total") == len(sent), within_s=90)
    assert len(read_committed(servers, topics.dead_letters)) > 10_000
    assert worker.is_running


@pytest.mark.timeout(240)
def test_nothing_but_hostile_records_stops_the_worker_and_a_start_goes_on(
    kafka: Broker, start_worker: WorkerStarter
) -> None:
    servers, topics = kafka.bootstrap_servers, Topics.unique()
    topics.create(servers, partitions=1)
    bad, good = [("x", b"{")] * 14_000, list(ward(2, 30))
    produce(servers, topics.readings, [*bad, *good])
    worker = start_worker(None, **topics.settings)
    assert worker.wait(90) == 1
    assert "dead_letter_limit" in worker.log
    assert "Traceback" not in worker.log
    stopped_after = len(read_committed(servers, topics.dead_letters))
    assert 10_000 <= stopped_after < len(bad)
    worker.start()
    read_committed(servers, topics.forecasts, until=lambda found: len(found) == len(good))
    places = [message.json()["source"]["offset"] for message in read_committed(servers, topics.dead_letters)]
    assert places == list(range(len(bad)))
