"""`vitalcast simulate`: the lines it prints and its exit code around stream_worker.simulator.feed."""

from __future__ import annotations

import time

from rich.console import Console

from stream_worker.sender import Sender, backpressure_of
from stream_worker.settings import Settings
from stream_worker.simulator.feed import admit, history, live, send
from stream_worker.stopping import stop_after, stop_on_signals

REPORT_EVERY_S = 10.0


def run_simulate(
    settings: Settings,
    *,
    patients: int,
    rate: float,
    seed: int,
    history_min: float,
    duration_s: float | None,
    console: Console,
) -> int:
    """Send patients until Ctrl-C or for `duration_s`, with a line every 10 s. Returns 1 if a record failed.

    Raises: BrokerUnreachableError, KafkaFaultError.
    """
    with stop_on_signals() as stop, stop_after(duration_s, stop):
        sender = Sender(settings, backpressure_of(settings, stop))
        start = time.time()
        ward = admit(patients, seed=seed, start=start)
        to = f"{patients} patients, {rate:g} readings/s each, to {settings.readings_topic}"
        console.print(f"{to}. Ctrl-C ends.")
        send(history(ward, until=start, minutes=history_min), sender, stop)
        due = time.monotonic() + REPORT_EVERY_S

        def report(count: int) -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + REPORT_EVERY_S
                console.print(f"{count} readings sent")

        send(live(ward, start=start, rate=rate), sender, stop, report=report)
        sender.close()
    console.print(f"sent {sender.sent}{sender.failures}", soft_wrap=True)
    return 1 if sender.failed else 0
