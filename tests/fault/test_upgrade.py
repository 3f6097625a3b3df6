"""Another model and back, one worker after the other: no reading is lost or doubled, and what is no forecast stays."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import groupby
from pathlib import Path

import msgspec
import pytest

from model.config import vital_signs
from model.export import write_artifact
from model.manifest import DEFAULT_ARTIFACT, read_manifest
from model.train import fit
from stream_worker.stays import BODY, HEAD, PARTITION, Layout, PartitionState
from tests.conftest import WorkerStarter
from tests.fault.feed import Feed
from tests.fault.undisturbed import assert_same_row, newest_state
from tests.kafka_broker import Broker
from tests.kafka_client import Message, Topics, produce, read_committed
from tests.model.synthetic import NO_TRAINING, synthetic_stay
from tests.patients import ward

STAYS, MINUTES = 12, 390
FED_PER_S = 40  # a third lasts for longer than an exchange
# What a model said itself, and its own state; all else a model of the same task leaves alike.
OF_THE_MODEL = {"expected", "expected_step", "model", "state32", "state16"}
KINDS_WITHOUT_MODEL = {"limit", "technical"}


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Another artifact for the same task, trained for a moment."""
    config = vital_signs()
    forecaster = fit([synthetic_stay(config, 400, seed) for seed in range(2)], config, seed=3, updates=3)
    write_artifact(forecaster, config, NO_TRAINING, tmp_path / "second", name="second", version="2.0.0")
    return tmp_path / "second"


def chains(servers: str, topics: Topics) -> dict[str, list[tuple[int, str]]]:
    """Revisions and states of the alerts that no model has a say in."""
    found: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for message in read_committed(servers, topics.alerts):
        alert = message.json()
        if alert.get("kind") in KINDS_WITHOUT_MODEL:
            found[alert["alert_id"]].append((alert["revision"], alert["state"]))
    return found


def assert_same_readings_kept(servers: str, ours: Topics, theirs: Topics) -> int:
    """Windows, open minutes, newest values and positions are equal; returns the number of stays."""
    layout = Layout.of(read_manifest(DEFAULT_ARTIFACT))
    rows, expected = newest_state(servers, ours), newest_state(servers, theirs)
    assert rows.keys() == expected.keys()
    stays = 0
    for place, value in rows.items():
        kind = place[1][:1]
        if kind == PARTITION:
            positions = [msgspec.msgpack.decode(one, type=PartitionState) for one in (value, expected[place])]
            assert positions[0].next_offset == positions[1].next_offset
        elif kind in (HEAD, BODY):
            stays += kind == HEAD
            dtype = layout.head if kind == HEAD else layout.body
            ours_row, theirs_row = (one[: dtype.itemsize] for one in (value, expected[place]))
            assert_same_row(dtype, ours_row, theirs_row, without=OF_THE_MODEL)
    return stays


def wait_until_each_stay_has(servers: str, topics: Topics, forecasts: int) -> None:
    """Wait until the worker has answered so many readings of each stay, or more."""

    def has(found: list[Message]) -> bool:
        answered = Counter(message.key for message in found)
        return len(answered) == STAYS and min(answered.values()) >= forecasts

    read_committed(servers, topics.forecasts, until=has)


@pytest.mark.timeout(500)
def test_a_new_model_and_the_old_one_again_lose_and_double_nothing(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter, second: Path
) -> None:
    servers, sent = kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    reference = Topics.unique().create(servers)
    left_alone = start_worker(None, **{**reference.settings, "readings_topic": topics.readings})
    worker = start_worker(instance_id="worker")
    # Each model gets readings of its own, however long starts take: a third is sent once the one before it is left.
    thirds = [sent[STAYS * first : STAYS * (first + MINUTES // 3)] for first in range(0, MINUTES, MINUTES // 3)]
    for number, model in enumerate((second, DEFAULT_ARTIFACT)):
        with Feed(servers, topics.readings, thirds[number], per_s=FED_PER_S) as feed:
            wait_until_each_stay_has(servers, topics, number * MINUTES // 3 + 1)
            assert worker.terminate() == 0
            assert feed.goes_on
            worker.settings["model"] = model
            worker.start()
    produce(servers, topics.readings, thirds[-1])
    left_alone.wait_ready()
    for outputs in (topics, reference):
        read_committed(servers, outputs.forecasts, until=lambda found: len(found) >= len(sent), timeout_s=120)

    forecasts = [message.json() for message in read_committed(servers, topics.forecasts)]
    ids = Counter(forecast["forecast_id"] for forecast in forecasts)
    assert len(ids) == len(forecasts) == len(sent)
    first, other = (read_manifest(path).sha256[:12] for path in (DEFAULT_ARTIFACT, second))
    for stay in {forecast["stay_id"] for forecast in forecasts}:
        of_stay = [forecast for forecast in forecasts if forecast["stay_id"] == stay]
        assert [sha256 for sha256, _ in groupby(f["model"]["sha256"] for f in of_stay)] == [first, other, first]
        assert [f["status"] for f in of_stay] == ["warming_up"] * 29 + ["ok"] * (MINUTES - 29)  # it warms up once
    assert chains(servers, topics) == chains(servers, reference) != {}
    assert assert_same_readings_kept(servers, topics, reference) == STAYS
