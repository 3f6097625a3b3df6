"""One Vitalcast worker beside others doing the same work: same readings, same Kafka, same model, in turns.

Each program runs alone, pinned to one core, the broker and this process on the others. It first takes some readings
to be warm; then the whole backlog appears at once, because it is written in one transaction, and the program's time
and CPU time count from there until its last forecast is committed. Before its speed counts, its forecasts are read
back: one for each reading, and those of some stays equal to the pipeline's own.

Programs that take one reading at a time get the first part of the backlog only: they would need minutes for all of it.
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import orjson
import psutil
import pytest
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from schemas import codec
from schemas.forecast import Forecast
from schemas.recordings import read_rows, stay_id_of
from stream_worker.pipeline import Pipeline
from stream_worker.replay import encode_row
from stream_worker.settings import Settings
from tests.bench.bench_worker import READINGS, backlog
from tests.bench.peers.environment import ROOT, peers_python
from tests.bench.peers.job import Job, Record, load_predictor
from tests.kafka_broker import Broker, free_port
from tests.kafka_client import Topics, produce, read_committed
from tests.launch import VITALCAST
from tests.worker_process import settings_environment

ROUNDS: Final = int(os.environ.get("VITALCAST_BENCH_ROUNDS", "5"))
CORE: Final = 0  # of the program that is measured
PARTITIONS: Final = 4
COMPARED_STAYS: Final = 20
# As long as no program is between two commits.
SILENCE_S: Final = 4.0
LAST_DIGIT: Final = 0.1001  # of a quantile: chunks of other sizes are summed up in another order
SCORE_TOLERANCE: Final = 0.02  # of an anomaly score, whose expected band may differ by a digit

ALERTS: Final = "alerts"
SCORES: Final = "anomaly scores"
OUTPUTS: Final = ("forecasts", "alerts", "dead_letters")

Readings = Sequence[tuple[str, bytes]]
Reference = dict[tuple[str, datetime], Forecast]  # by stay and time of issue


class Program(NamedTuple):
    """One way to do the work. `share` is the part of the backlog that it gets."""

    name: str
    guarantee: str
    leaves_out: Sequence[str]
    share: float
    command: Callable[[Job], Sequence[str | Path]]


def peer(module: str, *arguments: str, is_in_own_environment: bool = False) -> Callable[[Job], Sequence[str | Path]]:
    """The command that runs one of the modules in `peers`."""

    def command(job: Job) -> Sequence[str | Path]:
        python = peers_python() if is_in_own_environment else sys.executable
        return [python, "-m", f"tests.bench.peers.{module}", job.as_argument(), *arguments]

    return command


VITALCAST_WORKER: Final = Program("Vitalcast", "exactly once", (), 1.0, lambda _: [*VITALCAST, "worker"])
PROGRAMS: Final = (
    VITALCAST_WORKER,
    Program("confluent-kafka loop, same core", "exactly once", (), 1.0, peer("confluent_loop")),
    Program(
        "Bytewax, a key a partition, same core",
        "at least once",
        (ALERTS,),
        1.0,
        peer("bytewax_flow", "partitions", is_in_own_environment=True),
    ),
    Program(
        "Bytewax, a key a stay",
        "at least once",
        (ALERTS, SCORES),
        0.1,
        peer("bytewax_flow", "stays", is_in_own_environment=True),
    ),
    Program("Quix Streams", "exactly once", (ALERTS, SCORES), 0.1, peer("quix", is_in_own_environment=True)),
    Program("stock Faust", "exactly once", (ALERTS, SCORES), 0.1, peer("stock_faust")),
)


class Figures(NamedTuple):
    """What one run showed."""

    readings_per_s: float
    cpu_us: float  # a reading


# --- the readings ---


def ward() -> tuple[int, Readings]:
    """5,000 stays, one reading a second of each: (how many are for warming up, all)."""
    stays = 5000
    return 2 * stays, list(backlog(stays, 1))


def recorded(folder: Path) -> tuple[int, Readings]:
    """The first readings of real recordings, one a minute of each stay: likewise."""
    paths = sorted(folder.glob("*.csv.gz"))
    steps = max(READINGS // 10 // len(paths), 100)
    tracks = [islice((row for row in read_rows(path) if row.values), steps) for path in paths]
    rows = zip(*tracks, strict=True)
    ids = [stay_id_of(path) for path in paths]
    readings = [(stay_id, encode_row(stay_id, row)) for step in rows for stay_id, row in zip(ids, step, strict=True)]
    # Only those that leave a forecast: the others would have to be told apart when forecasts are counted.
    accepted = [readings[forecast.source.offset] for forecast in forecasts_of(readings)]
    return len(accepted) // 10, accepted


def produce_at_once(servers: str, topic: str, readings: Readings) -> None:
    """All readings in one transaction: nobody sees the first before the last is there."""
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "partitioner": "murmur2_random",
            "transactional.id": topic,
            "transaction.timeout.ms": 900_000,
            "queue.buffering.max.messages": len(readings) + 1,
        }
    )
    producer.init_transactions()
    producer.begin_transaction()
    for key, value in readings:
        producer.produce(topic, key=key, value=value)
        producer.poll(0)
    producer.commit_transaction()


def forecasts_of(readings: Readings) -> list[Forecast]:
    """What the pipeline makes of them, without Kafka; a forecast's offset is its reading's index."""
    settings = Settings(calibration="none")
    predictor = load_predictor(settings)
    pipeline = Pipeline(settings, predictor)
    now_us = time.time_ns() // 1000
    records = [
        Record(index, now_us // 1000, stay_id.encode(), value) for index, (stay_id, value) in enumerate(readings)
    ]
    forecasts = [codec.decode_output(value) for _, value in pipeline.process({0: records}, now_us)[0].forecasts]
    return [forecast for forecast in forecasts if isinstance(forecast, Forecast)]


def reference_of(readings: Readings) -> Reference:
    """The right forecasts of some stays."""
    stays = sorted({stay_id for stay_id, _ in readings})
    chosen = set(random.Random(0).sample(stays, min(COMPARED_STAYS, len(stays))))
    forecasts = forecasts_of([reading for reading in readings if reading[0] in chosen])
    return {(forecast.stay_id, forecast.issued_at): forecast for forecast in forecasts}


# --- one run ---


@contextmanager
def running(program: Program, job: Job) -> Iterator[psutil.Process]:
    """The program as a process of its own on CORE; its output is in `job.folder`."""
    settings = job.settings().model_dump(include={"bootstrap_servers", "app_id", "calibration"}, mode="json")
    topics = {f"{name}_topic": getattr(job, name) for name in ("readings", "forecasts", "alerts", "dead_letters")}
    environment = settings_environment({**settings, **topics, "http_port": free_port(), "device": "cpu"})
    log = Path(job.folder).with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(map(str, program.command(job))),
            env=environment | {"PYTHONPATH": str(ROOT)},
            cwd=job.folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    os.sched_setaffinity(process.pid, {CORE})
    try:
        yield psutil.Process(process.pid)
    except TimeoutError as error:
        error.add_note(f"{program.name}:\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}")
        raise
    finally:
        process.kill()
        process.wait()


class Progress:
    """What a program has committed: the end of its forecasts for a read_committed consumer."""

    def __init__(self, job: Job) -> None:
        self._admin = AdminClient({"bootstrap.servers": job.servers})
        partitions = [TopicPartition(job.forecasts, partition) for partition in range(job.partitions)]
        self._wanted = {partition: OffsetSpec.latest() for partition in partitions}

    def end(self) -> int:
        """The sum of the partitions' ends: the number of forecasts, and of the marks that transactions leave."""
        found = self._admin.list_offsets(self._wanted, isolation_level=IsolationLevel.READ_COMMITTED)
        try:
            return sum(future.result().offset for future in found.values())
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION:  # a topic just made has none for a while
                raise
            return 0

    def wait_for(self, forecasts: int, process: psutil.Process, timeout_s: float) -> tuple[float, float]:
        """Monotonic and CPU time when the last of at least `forecasts` was committed: nothing follows in SILENCE_S."""
        deadline = time.monotonic() + timeout_s
        newest, at = -1, (0.0, 0.0)
        while newest < forecasts or time.monotonic() - at[0] < SILENCE_S:
            if time.monotonic() > deadline or not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                raise TimeoutError(f"{newest} of {forecasts} forecasts within {timeout_s:.0f} s")
            end = self.end()
            if end > newest:
                newest, at = end, (time.monotonic(), cpu_s(process))
            time.sleep(0.05)
        return at


def cpu_s(process: psutil.Process) -> float:
    """CPU time of all threads, in user space and in the kernel."""
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(program: Program, job: Job, warm_up: int, readings: Readings, reference: Reference) -> Figures:
    """One run, checked."""
    warm_up = math.ceil(warm_up * program.share)
    rest = readings[warm_up : math.ceil(len(readings) * program.share)]
    produce(job.servers, job.readings, readings[:warm_up])
    progress = Progress(job)
    with running(program, job) as process:
        progress.wait_for(warm_up, process, timeout_s=300)
        cpu_before = cpu_s(process)
        produce_at_once(job.servers, job.readings, rest)
        started = time.monotonic()
        ended, cpu_after = progress.wait_for(warm_up + len(rest), process, timeout_s=1800)
    check(job, warm_up + len(rest), reference, with_scores=SCORES not in program.leaves_out)
    return Figures(len(rest) / (ended - started), (cpu_after - cpu_before) / len(rest) * 1e6)


def check(job: Job, readings: int, reference: Reference, *, with_scores: bool) -> None:
    """One forecast for each reading, and the right one."""
    messages = read_committed(job.servers, job.forecasts, timeout_s=600)
    compared_stays = {stay_id for stay_id, _ in reference}
    places, compared = set(), 0
    for message in messages:
        source = orjson.loads(message.value or b"")["source"]
        places.add((source["partition"], source["offset"]))
        stay_id = (message.key or b"").decode()
        if stay_id in compared_stays:
            found = codec.decode_output(message.value or b"")
            assert isinstance(found, Forecast)
            expected = reference[stay_id, found.issued_at]
            assert_same_forecast(found, expected)
            if with_scores:
                assert_same_scores(found, expected)
            compared += 1
    assert len(messages) == len(places) == readings
    assert compared


def assert_same_forecast(found: Forecast, expected: Forecast) -> None:
    """Equal but for the last digit of what the model gave."""
    for name in ("status", "calibration", "model", "step_s", "horizons_s", "quantile_levels"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.signals.keys() == expected.signals.keys()
    for name, signal in found.signals.items():
        wanted = expected.signals[name]
        assert (signal.last, signal.last_at) == (wanted.last, wanted.last_at)
        for row, wanted_row in zip(signal.quantiles, wanted.quantiles, strict=True):
            assert row == pytest.approx(wanted_row, abs=LAST_DIGIT)


def assert_same_scores(found: Forecast, expected: Forecast) -> None:
    """Equal but for what the last digit of an earlier forecast changes."""
    assert found.anomalies.keys() == expected.anomalies.keys()
    for name, anomaly in found.anomalies.items():
        assert anomaly.score == pytest.approx(expected.anomalies[name].score, abs=SCORE_TOLERANCE)


# --- the comparison ---


@contextmanager
def broker_apart(kafka: Broker) -> Iterator[None]:
    """The broker and this process on the cores that the measured program does not have."""
    mine = os.sched_getaffinity(0)
    others = mine - {CORE}
    if not others or CORE not in mine:
        pytest.skip(f"needs core {CORE} and another one")
    kafka.pin(others)
    os.sched_setaffinity(0, others)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def compare(kafka: Broker, folder: Path, warm_up: int, readings: Readings) -> dict[Program, list[Figures]]:
    """ROUNDS runs of each program, in turns, so that whatever else the machine does meets them all."""
    figures: dict[Program, list[Figures]] = {program: [] for program in PROGRAMS}
    reference = reference_of(readings)
    for round_ in range(ROUNDS):
        for number, program in enumerate(PROGRAMS):
            topics = Topics.unique().create(kafka.bootstrap_servers, PARTITIONS)
            own = folder / f"{round_}-{number}"
            own.mkdir()
            names = {name: getattr(topics, name) for name in ("app_id", "readings", *OUTPUTS, "changelog")}
            job = Job(servers=kafka.bootstrap_servers, partitions=PARTITIONS, folder=str(own), **names)
            found = measure(program, job, warm_up, readings, reference)
            figures[program].append(found)
            print(f"  {program.name:40s} {found.readings_per_s:9,.0f} readings/s {found.cpu_us:9.1f} us", flush=True)
            delete_topics(kafka.bootstrap_servers, topics.app_id)
    return figures


def delete_topics(servers: str, app_id: str) -> None:
    """Drop what a run left, so that the broker's disk holds one run."""
    admin = AdminClient({"bootstrap.servers": servers})
    names = [name for name in admin.list_topics(timeout=30).topics if app_id in name]
    for deleted in admin.delete_topics(names).values():
        deleted.result(30)


def show(figures: dict[Program, list[Figures]]) -> None:
    """Medians; ratios are medians too, of those within a round."""
    ours = figures[VITALCAST_WORKER]
    print("| program | guarantee | leaves out | readings/s | Vitalcast : it | CPU us a reading | it : Vitalcast |")
    print("|---|---|---|---|---|---|---|")
    for program, found in figures.items():
        rate = median(run.readings_per_s for run in found)
        cpu = median(run.cpu_us for run in found)
        faster = median(own.readings_per_s / run.readings_per_s for own, run in zip(ours, found, strict=True))
        cheaper = median(run.cpu_us / own.cpu_us for own, run in zip(ours, found, strict=True))
        cells = program.name, program.guarantee, ", ".join(program.leaves_out)
        print("| " + " | ".join(cells) + f" | {rate:,.0f} | {faster:.2f} | {cpu:.1f} | {cheaper:.2f} |", flush=True)


@pytest.mark.timeout(4 * 3600)
def bench_peers_on_a_ward(own_kafka: Broker, tmp_path: Path) -> None:
    warm_up, readings = ward()
    print(f"\n5,000 stays, one reading a second, {len(readings):,} readings, {ROUNDS} rounds", flush=True)
    with broker_apart(own_kafka):
        show(compare(own_kafka, tmp_path, warm_up, readings))


@pytest.mark.timeout(4 * 3600)
def bench_peers_on_recordings(own_kafka: Broker, recordings: Path, tmp_path: Path) -> None:
    warm_up, readings = recorded(recordings)
    stays = len({stay_id for stay_id, _ in readings})
    print(f"\n{stays} recordings, {len(readings):,} readings, {ROUNDS} rounds", flush=True)
    with broker_apart(own_kafka):
        show(compare(own_kafka, tmp_path, warm_up, readings))
