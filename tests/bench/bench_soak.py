"""Hours in small: does memory grow, does latency, does CPU time? VITALCAST_BENCH_SECONDS=1800 is the long form."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pytest

from tests.bench.load import WARM_UP_S, Load, Waits
from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Topics
from tests.worker_process import WorkerProcess, sum_of

mpl.use("Agg")
import matplotlib.pyplot as plt

SECONDS = float(os.environ.get("VITALCAST_BENCH_SECONDS", "60"))
RATE = float(os.environ.get("VITALCAST_BENCH_RATE", "12500"))
STAYS = 1000
SLICES = 30
OUT = Path("reports/soak.png")


class Sample(NamedTuple):
    """The worker at a moment, seconds after the warm-up."""

    at_s: float
    resident_mb: float
    cpu_s: float


def watch(worker: WorkerProcess, load: Load, samples: list[Sample]) -> None:
    """A sample for each half slice, until the load ends."""
    load.warm.wait()
    start = time.monotonic()
    while load.is_alive():
        text = worker.metrics()
        memory, cpu_s = sum_of(text, "process_resident_memory_bytes"), sum_of(text, "process_cpu_seconds_total")
        samples.append(Sample(time.monotonic() - start, memory / 1e6, cpu_s))
        time.sleep(SECONDS / SLICES / 2)


@pytest.mark.timeout(SECONDS + 300)
def bench_soak(kafka: Broker, topics: Topics, start_worker: WorkerStarter) -> None:
    worker = start_worker()
    os.sched_setaffinity(worker.pid, {0})
    load = Load(kafka, topics, RATE, SECONDS, STAYS)
    samples: list[Sample] = []
    threading.Thread(target=watch, args=(worker, load, samples), daemon=True).start()
    waits = load.waits()
    print(f"\n{RATE:g} readings/s for {SECONDS:g} s after {WARM_UP_S} s, each with its one forecast")
    for name, low, high in (("first", 0, 1 / 3), ("second", 1 / 3, 2 / 3), ("last", 2 / 3, 1)):
        inside = (waits.at_s >= low * SECONDS) & (waits.at_s < high * SECONDS)
        figures = ", ".join(f"p{q:g} {np.percentile(waits.wait_ms[inside], q):.0f} ms" for q in (50, 99, 99.9))
        part = [sample for sample in samples if low * SECONDS <= sample.at_s < high * SECONDS]
        cpu = (part[-1].cpu_s - part[0].cpu_s) / (part[-1].at_s - part[0].at_s)
        memory = np.mean([sample.resident_mb for sample in part])
        print(f"  {name:6s} third: {figures}, {100 * cpu:.0f} % of a core, {memory:.0f} MB resident")
    plot(waits, samples)
    print(f"  {OUT}")


def plot(waits: Waits, samples: list[Sample]) -> None:
    """Latency and memory over time."""
    figure, (latency, memory) = plt.subplots(2, 1, sharex=True, figsize=(8, 5), layout="constrained")
    which = (waits.at_s * SLICES / SECONDS).astype(int)
    slices = [part for part in range(SLICES) if (which == part).any()]
    middles = [(part + 0.5) * SECONDS / SLICES / 60 for part in slices]
    for q in (99.9, 99, 50):
        latency.plot(middles, [np.percentile(waits.wait_ms[which == part], q) for part in slices], label=f"p{q:g}")
    latency.set(ylabel="wait for the forecast, ms", ylim=(0, None), title=f"{RATE:,.0f} readings/s on one core")
    latency.legend()
    memory.plot([sample.at_s / 60 for sample in samples], [sample.resident_mb for sample in samples])
    most = max(sample.resident_mb for sample in samples)
    memory.set(xlabel="minutes", ylabel="resident, MB", ylim=(0, 1.1 * most))
    OUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUT, dpi=120)
