"""Another model without a restart, and one in the shadow of the first, on a real worker."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from model.config import vital_signs
from model.manifest import DEFAULT_ARTIFACT, read_manifest
from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, produce, read_committed
from tests.model.synthetic import ONE_SIGNAL, random_artifact
from tests.patients import ward
from tests.waiting import eventually
from tests.worker_process import WorkerProcess

BEDS, MINUTES = 3, 80


def encoded(readings: Iterable[tuple[str, dict[str, Any]]]) -> list[tuple[str, bytes]]:
    return [(stay_id, orjson.dumps(message)) for stay_id, message in readings]


def wait_for(condition: Callable[[], bool], worker: WorkerProcess) -> None:
    eventually(condition, within_s=60, told=lambda: worker.log[-2000:])


def test_a_new_artifact_is_taken_up_on_sighup_and_a_bad_one_is_refused(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEFAULT_ARTIFACT, model)
    first = read_manifest(model).sha256[:12]
    worker = start_worker(model=model)
    readings = encoded(ward(BEDS, MINUTES))
    half = len(readings) // 2
    produce(kafka.bootstrap_servers, topics.readings, readings[:half])
    wait_for(lambda: worker.metric("vitalcast_forecasts_total") == half, worker)

    shutil.copytree(random_artifact(ONE_SIGNAL, tmp_path / "other-task"), model, dirs_exist_ok=True)
    worker.hang_up()
    wait_for(lambda: "model_refused" in worker.log, worker)

    shutil.copytree(random_artifact(vital_signs(), tmp_path / "random"), model, dirs_exist_ok=True)
    second = read_manifest(model).sha256[:12]
    worker.hang_up()
    wait_for(lambda: "model_changed" in worker.log, worker)
    produce(kafka.bootstrap_servers, topics.readings, readings[half:])
    wait_for(lambda: worker.metric("vitalcast_forecasts_total") == len(readings), worker)

    forecasts = [message.json() for message in read_committed(kafka.bootstrap_servers, topics.forecasts)]
    assert [f["model"]["sha256"] for f in forecasts].count(first) == half
    assert [f["model"]["sha256"] for f in forecasts].count(second) == len(readings) - half
    assert {f["status"] for f in forecasts if f["model"]["sha256"] == second} == {"ok"}  # the windows are kept
    text = worker.metrics()
    assert f'sha256="{second}"' in text
    assert f'sha256="{first}"' not in text


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_shadow_model_is_scored_and_never_published(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter, tmp_path: Path, is_restarted: bool
) -> None:
    worker = start_worker(shadow_model=random_artifact(vital_signs(), tmp_path / "random"))
    readings = encoded(ward(BEDS, MINUTES))
    half = len(readings) // 2
    if is_restarted:
        produce(kafka.bootstrap_servers, topics.readings, readings[:half])
        wait_for(lambda: worker.metric("vitalcast_forecasts_total") == half, worker)
        worker.restart()
        readings = readings[half:]
    produce(kafka.bootstrap_servers, topics.readings, readings)
    wait_for(lambda: worker.metric("vitalcast_forecasts_total") == len(readings), worker)

    live = read_manifest(DEFAULT_ARTIFACT).sha256[:12]
    forecasts = [message.json() for message in read_committed(kafka.bootstrap_servers, topics.forecasts)]
    assert len(forecasts) == BEDS * MINUTES
    assert {f["model"]["sha256"] for f in forecasts} == {live}

    def scored(role: str) -> float:
        cell = f'vitalcast_forecast_scored_total{{band="90",covered="%s",horizon_s="60",role="{role}",signal="hr"}}'
        return sum(worker.metric(cell % covered) for covered in ("true", "false"))

    wait_for(lambda: scored("shadow") > 0, worker)
    if not is_restarted:
        assert scored("shadow") == scored("live")
    errors = {
        role: worker.metric(f'vitalcast_forecast_absolute_error_total{{horizon_s="60",role="{role}",signal="hr"}}')
        for role in ("live", "shadow")
    }
    assert 0 < errors["live"] < errors["shadow"]  # random weights are worse
