"""`vitalcast state show|forget STAY` on a real broker, with and without a running worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stream_worker.settings import Settings
from stream_worker.state_command import StateError, run_forget, run_show
from stream_worker.stays import Stays
from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, create_topics, produce, read_committed
from tests.model.synthetic import ONE_SIGNAL, random_artifact
from tests.patients import ward
from tests.waiting import eventually
from tests.worker_process import WorkerProcess, run_vitalcast

MINUTES = 90
STAY = "stay-1-2"  # the last of three: its blood pressure falls, so it has alerts

# A segment is compacted once it is closed: after 1 s here, tombstones included.
QUICKLY_COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "1000",
    "min.cleanable.dirty.ratio": "0.001",
    "delete.retention.ms": "0",
    "max.compaction.lag.ms": "1000",
}


def keys_in(servers: str, topics: Topics) -> set[bytes]:
    """All keys in the changelog's log, tombstones' too."""
    return {message.key or b"" for message in read_committed(servers, topics.changelog)}


def wait_for_stays(worker: WorkerProcess, number: int) -> None:
    """Wait until the worker tracks so many stays."""
    eventually(lambda: worker.metric("vitalcast_tracked_stays") == number, within_s=60)


@pytest.mark.timeout(300)
def test_a_stay_is_shown_forgotten_and_never_comes_back(
    kafka: Broker, start_worker: WorkerStarter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers, topics = kafka.bootstrap_servers, Topics.unique()
    create_topics(servers, topics.readings, *topics.outputs)
    create_topics(servers, topics.changelog, config=QUICKLY_COMPACTED)
    settings: dict[str, Any] = {"bootstrap_servers": servers, **topics.settings}
    sent = list(ward(3, MINUTES))
    for _, value in sent:
        value["care_unit"] = "\x1b[2Jicu"
    produce(servers, topics.readings, sent)
    worker = start_worker(**topics.settings)
    read_committed(servers, topics.forecasts, until=lambda found: len(found) == len(sent))

    shown = run_vitalcast("state", "show", STAY, "--json", folder=tmp_path, settings=settings)
    assert shown.returncode == 0, shown.stderr
    state = json.loads(shown.stdout)
    newest = [value for name, value in sent if name == STAY][-1]
    assert state["newest_observed_at"] == newest["observed_at"]
    assert {name: value["last"] for name, value in state["values"].items()} == newest["vitals"]
    assert len(state["window"]) == 60
    closed = [value for name, value in sent if name == STAY][-3]  # the minute before may still get late readings
    assert state["window"][closed["observed_at"]] == closed["vitals"]
    assert any(alert["raised_offset"] is not None for alert in state["alerts"])

    ours = Settings(**settings)
    run_show(ours, STAY, Console(), as_json=False)
    tables = capsys.readouterr().out
    assert str(newest["vitals"]["hr"]) in tables
    assert "icu" in tables
    assert "\x1b" not in tables
    other = random_artifact(ONE_SIGNAL, tmp_path / "other")
    run_show(Settings(**settings, model=other), STAY, Console(width=200), as_json=False)
    assert "a model with other signals" in capsys.readouterr().out
    run_forget(ours, STAY, Console(), within_s=60)
    assert "Forgotten" in capsys.readouterr().out
    alerts = [message.json() for message in read_committed(servers, topics.alerts)]
    of_stay = [alert for alert in alerts if alert.get("stay_id") == STAY]
    raised, cleared = ({a["alert_id"] for a in of_stay if a["state"] == state} for state in ("raised", "cleared"))
    assert raised == cleared != set()
    assert any(alert["clear_reason"] == "stay_ended" for alert in of_stay)
    with pytest.raises(StateError, match="no state of this stay"):
        run_show(ours, STAY, Console(), as_json=False)
    run_forget(ours, STAY, Console(), within_s=0)
    assert "nothing to forget" in capsys.readouterr().out

    def is_gone() -> bool:
        produce(servers, topics.readings, [sent[-2]])  # new records close segments, compaction follows
        return not set(Stays.keys_of(STAY)) & keys_in(servers, topics)

    eventually(is_gone, within_s=90)
    worker.restart()
    wait_for_stays(worker, 2)


def test_forgetting_without_a_worker_says_so_and_happens_when_one_runs(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter, tmp_path: Path
) -> None:
    servers = kafka.bootstrap_servers
    settings: dict[str, Any] = {"bootstrap_servers": servers, **topics.settings}
    sent = list(ward(2, 3))
    produce(servers, topics.readings, sent)
    worker = start_worker()
    read_committed(servers, topics.forecasts, until=lambda found: len(found) == len(sent))
    assert worker.terminate() == 0
    done = run_vitalcast("state", "forget", "stay-1-1", "--within", "1", folder=tmp_path, settings=settings)
    assert done.returncode == 1
    assert "no worker has taken it" in done.stderr
    assert "stay-1-1" not in done.stderr
    worker.start()
    run_forget(Settings(**settings), "stay-1-1", Console(), within_s=60)
    wait_for_stays(worker, 1)
