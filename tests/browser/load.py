"""What a page costs its browser over time: processor, memory, elements, and how late values reach the screen."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from playwright.sync_api import Page


class Sample(NamedTuple):
    """The time since the sample before; memory at its end."""

    at_s: int
    lag_p50_ms: int
    lag_p95_ms: int
    lag_max_ms: int
    browser_cpu: float  # share of one core, all of the browser's processes
    browser_mb: int  # what they hold together, shared pages counted once
    heap_mb: float  # JavaScript, after a collection
    elements: int


class BrowserLoad:
    """Samples of a page that shows the ward; the browser is one that this process started."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._devtools = page.context.new_cdp_session(page)
        self._devtools.send("Performance.enable")
        children = psutil.Process().children(recursive=True)
        self._browser = [child for child in children if child.name().startswith("chrom")]
        self._page.evaluate("window.vitalcastLags.length = 0")
        self._began = self._at = time.monotonic()
        self._cpu_s = self._cpu()
        self.samples: list[Sample] = []

    def sample(self) -> list[float]:
        """Take a sample. Returns how late each update since the last one reached the screen, in milliseconds."""
        lags: list[float] = self._page.evaluate("window.vitalcastLags.splice(0)")
        now, cpu_s = time.monotonic(), self._cpu()
        self._devtools.send("HeapProfiler.collectGarbage")
        metrics = {item["name"]: item["value"] for item in self._devtools.send("Performance.getMetrics")["metrics"]}
        p50, p95, most = (int(value) for value in np.percentile(lags or [0.0], (50, 95, 100)))
        cpu = (cpu_s - self._cpu_s) / (now - self._at)
        pss = sum(process.memory_full_info().pss for process in self._browser if process.is_running())
        heap_mb = round(metrics["JSHeapUsedSize"] / 1e6, 2)
        elements: int = self._page.evaluate("document.querySelectorAll('*').length")
        self.samples.append(
            Sample(int(now - self._began), p50, p95, most, round(cpu, 3), int(pss / 1e6), heap_mb, elements)
        )
        self._at, self._cpu_s = time.monotonic(), self._cpu()
        return lags

    def write(self, file: Path) -> None:
        """All samples, as a table."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8", newline="") as out:
            table = csv.writer(out)
            table.writerow(Sample._fields)
            table.writerows(self.samples)

    def _cpu(self) -> float:
        times = (process.cpu_times() for process in self._browser if process.is_running())
        return sum(spent.user + spent.system for spent in times)


def percentiles(lags: list[float]) -> str:
    """Median, 95th percentile and the largest, in words."""
    return "p50 {:.0f}, p95 {:.0f}, at most {:.0f} ms".format(*np.percentile(lags, (50, 95, 100)))
