"""What Prometheus sees: the contract's names and labels, nothing promtool objects to, and a dashboard that works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.grafana import service_dashboard
from tests.conftest import missing_tool
from tests.kafka_broker import Broker, free_port
from tests.kafka_client import Topics, produce, read_committed
from tests.patients import reading, ward
from tests.waiting import eventually
from tests.worker_process import WorkerProcess

# Every metric of ours and its labels: the contract's, and last the budget's.
LABELS: dict[str, set[str]] = {
    "vitalcast_build_info": {"version"},
    "vitalcast_model_info": {"name", "version", "sha256", "role"},
    "vitalcast_ready": set(),
    "vitalcast_readings_total": {"outcome"},
    "vitalcast_dead_letters_total": {"reason"},
    "vitalcast_values_ignored_total": {"signal", "reason"},
    "vitalcast_forecasts_total": {"status"},
    "vitalcast_alerts_total": {"kind", "priority", "state"},
    "vitalcast_alerts_open": {"priority"},
    "vitalcast_alerts_suppressed_total": {"reason"},
    "vitalcast_alert_lead_time_seconds": set(),
    "vitalcast_end_to_end_seconds": set(),
    "vitalcast_inference_seconds": set(),
    "vitalcast_inference_batch_size": set(),
    "vitalcast_event_lag_seconds": set(),
    "vitalcast_consumer_lag_records": {"partition"},
    "vitalcast_assigned_partitions": set(),
    "vitalcast_rebalances_total": set(),
    "vitalcast_recovery_seconds": set(),
    "vitalcast_tracked_stays": set(),
    "vitalcast_stale_stays": set(),
    "vitalcast_forecast_scored_total": {"signal", "horizon_s", "band", "covered", "role"},
    "vitalcast_forecast_absolute_error_total": {"signal", "horizon_s", "role"},
    "vitalcast_persistence_absolute_error_total": {"signal", "horizon_s"},
    "vitalcast_calibration_shift": {"signal", "horizon_s", "band"},
    "vitalcast_alert_threshold_shift": {"partition"},
}
SETTINGS = Path(service_dashboard.__file__).parents[1] / "prometheus"
RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
# Nothing of the kind happens to these few patients within two hours.
MAY_HAVE_NO_SERIES = {"vitalcast_alerts_suppressed_total"}
MAY_BE_EMPTY = {"Alerts held back by reason"}
SCRAPE_S = 1
MINUTES = 130  # so that forecasts of 60 min come due


@pytest.fixture(scope="module")
def topics(kafka: Broker) -> Topics:
    """The topics of this module's worker."""
    return Topics.unique().create(kafka.bootstrap_servers)


@pytest.fixture(scope="module")
def worker(kafka: Broker, topics: Topics, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker that Prometheus watches while a small ward of patients goes through it."""
    settings = {"bootstrap_servers": kafka.bootstrap_servers, **topics.settings}
    worker = WorkerProcess(tmp_path_factory.mktemp("worker"), settings)
    try:
        yield worker.start()
    finally:
        worker.close()


@pytest.fixture(scope="module")
def prometheus(
    kafka: Broker, topics: Topics, worker: WorkerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a Prometheus that has scraped the worker before and after the ward's two hours."""
    if not shutil.which("prometheus"):
        missing_tool("prometheus", "Debian's package prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    target = worker.url.removeprefix("http://")
    scrape = {"job_name": "vitalcast", "static_configs": [{"targets": [target]}]}
    every = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"}
    config = {"global": every, "scrape_configs": [scrape], "rule_files": [str(SETTINGS / "alerts.yml")]}
    (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        records = list(two_hours())
        half = len(records) // 2
        for part in records[:half], records[half:]:  # a rate needs a sample before and one after
            wait_for_samples(address)
            produce(kafka.bootstrap_servers, topics.readings, part)
            wait_for_samples(address)
        wait_for_outputs(kafka, topics, len(records))
        wait_for_samples(address)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def two_hours() -> Iterator[tuple[str, dict[str, Any] | bytes]]:
    """Two hours of a ward until now, and one record for each kind of dead letter and ignored value."""
    start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=MINUTES)
    yield from ward(stays=4, minutes=MINUTES, start=start)
    newest = start + timedelta(minutes=MINUTES)
    odd = {"hr": -999, "resp": 300, "temp": 20, "nonsense": 1, "abp_sys": 50, "abp_dia": 60, "abp_mean": 55}
    yield "s", reading("s", newest, {**odd, "spo2": 97, "pulse": 80}, units={"pulse": "furlong"})
    yield "s", reading("s", newest, {"hr": 70}, quality={"hr": "invalid"})
    yield "s", reading("s", newest - timedelta(minutes=20), {"hr": 70})
    yield "s", reading("s", newest + timedelta(days=2), {"hr": 70})
    yield "s", b"["
    yield "s", b"{}"
    yield "s", b" " * 70_000


def wait_for_outputs(kafka: Broker, topics: Topics, records: int) -> None:
    """Wait until each record has left a forecast or a dead letter."""
    outputs = topics.forecasts, topics.dead_letters
    read_committed(kafka.bootstrap_servers, *outputs, until=lambda found: len(found) == records)


def ask(address: str, expression: str) -> list[dict[str, Any]]:
    """Prometheus's answer to an instant query; raises urllib.error.HTTPError if it is none."""
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"http://{address}/api/v1/query?{query}", timeout=10) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result


def wait_for_samples(address: str, more: int = 3) -> None:
    """Wait until Prometheus has scraped the worker `more` times from now."""
    since = time.time()

    def has_scraped() -> bool:
        try:
            found = ask(address, f"count_over_time(vitalcast_ready[{max(1, int(time.time() - since))}s])")
        except OSError:
            return False
        return bool(found) and int(found[0]["value"][1]) >= more and time.time() - since > more * SCRAPE_S

    eventually(has_scraped, within_s=60)


def families(worker: WorkerProcess) -> dict[str, Any]:
    """Our metrics by the name that the contract gives them."""
    found = text_string_to_metric_families(worker.metrics())
    names = {family.name + ("_total" if family.type == "counter" else ""): family for family in found}
    return {name: family for name, family in names.items() if name.startswith("vitalcast_")}


@pytest.mark.usefixtures("prometheus")
def test_metrics_are_those_of_the_contract(worker: WorkerProcess) -> None:
    found = families(worker)
    assert set(found) == set(LABELS)
    for name, family in found.items():
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == LABELS[name], sample
        assert family.samples or name in MAY_HAVE_NO_SERIES, f"{name} has no series"


@pytest.mark.usefixtures("prometheus")
def test_labels_are_closed_sets(worker: WorkerProcess) -> None:
    series = sum(len(family.samples) for family in families(worker).values())
    assert series < 1000
    assert "stay-" not in worker.metrics()


@pytest.mark.usefixtures("prometheus")
def test_counters_add_up(worker: WorkerProcess) -> None:
    found = families(worker)

    def total(name: str, **labels: str) -> float:
        samples = found[name].samples
        return float(sum(s.value for s in samples if labels.items() <= s.labels.items()))

    rejected = total("vitalcast_readings_total", outcome="rejected") + total("vitalcast_readings_total", outcome="late")
    assert rejected == total("vitalcast_dead_letters_total") == 6
    accepted = total("vitalcast_readings_total", outcome="accepted")
    assert accepted == total("vitalcast_forecasts_total") == 4 * MINUTES + 1


@pytest.mark.usefixtures("prometheus")
def test_promtool_has_nothing_to_say(worker: WorkerProcess) -> None:
    if not shutil.which("promtool"):
        missing_tool("promtool", "Debian's package prometheus")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=worker.metrics(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_open_metrics_when_asked_for(worker: WorkerProcess) -> None:
    request = urllib.request.Request(f"{worker.url}/metrics", headers={"Accept": "application/openmetrics-text"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert answer.read().endswith(b"# EOF\n")


PANELS = [panel for row in service_dashboard.ROWS.values() for panel in row]


def test_dashboard_is_the_one_its_script_writes() -> None:
    assert service_dashboard.FILE.read_text(encoding="utf-8") == service_dashboard.text(), (
        "run python deploy/grafana/service_dashboard.py"
    )


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_panel_is_explained_and_uses_the_contract_s_metrics(panel: service_dashboard.Panel) -> None:
    assert panel.unit
    assert panel.description
    for expression in panel.queries.values():
        names = set(re.findall(r"vitalcast_\w+", expression))
        assert {re.sub(r"_seconds_bucket$", "_seconds", name) for name in names} <= set(LABELS), expression
        for counter in re.findall(r"vitalcast_\w+_(?:total|bucket)", expression):
            assert re.search(rf"rate\({counter}\b", expression), f"{counter} without rate()"


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_panel_shows_something_on_a_real_prometheus(panel: service_dashboard.Panel, prometheus: str) -> None:
    for expression in panel.queries.values():
        asked = expression.replace("$__rate_interval", "5m").replace("$__range", "1h").replace("$horizon_s", "900")
        series = ask(prometheus, asked)
        assert series or panel.title in MAY_BE_EMPTY, f"no series for {asked}"
        assert all(one["value"][1] != "NaN" for one in series) or panel.title in MAY_BE_EMPTY, asked


@pytest.mark.parametrize("arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")])
def test_prometheus_understands_its_settings_and_alerts_are_raised_by_what_they_say(arguments: tuple[str, ...]) -> None:
    if not shutil.which("promtool"):
        missing_tool("promtool", "Debian's package prometheus")
    done = subprocess.run(["promtool", *arguments], cwd=SETTINGS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_real_prometheus_runs_the_alerts_and_each_has_its_page_in_the_runbook(prometheus: str) -> None:
    with urllib.request.urlopen(f"http://{prometheus}/api/v1/rules?type=alert", timeout=10) as answer:
        rules = [rule for group in json.load(answer)["data"]["groups"] for rule in group["rules"]]
    sections = re.findall(r"^## (\w+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    assert {rule["name"] for rule in rules} == set(sections)
    for rule in rules:
        assert rule["health"] == "ok", rule
        assert rule["state"] != "firing", "nothing is wrong with this worker"
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['name'].lower()}"
        names = set(re.findall(r"vitalcast_\w+", rule["query"]))
        assert {re.sub(r"_seconds_bucket$", "_seconds", name) for name in names} <= set(LABELS), rule["query"]
