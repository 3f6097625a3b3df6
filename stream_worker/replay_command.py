"""`vitalcast replay`: the progress bar and the exit code around stream_worker.replay."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from schemas.recordings import find_recordings
from stream_worker.replay import Progress, replay, tracks_of
from stream_worker.sender import Sender, backpressure_of
from stream_worker.settings import Settings


def run_replay(
    settings: Settings, paths: Sequence[Path], *, speed: float | None, shift_to_now: bool, console: Console
) -> int:
    """Replay, with a progress bar; prints sent and skipped. Returns 1 if a record failed or Ctrl-C ended it early.

    Raises: RecordingError, BrokerUnreachableError, KafkaFaultError.
    """
    recordings = find_recordings(*paths)
    sender = Sender(settings, backpressure_of(settings))
    with console.status("Reading the recordings"):
        tracks = tracks_of(recordings, "end_now" if shift_to_now else "recorded")
    total = sum(track.rows for track in tracks)
    stop = threading.Event()
    done = Progress()
    columns = (TextColumn("Replay"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with ProgressBar(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("replay", total=total, rate="")

        def report(progress: Progress) -> None:
            nonlocal done
            done = progress
            found = bar.tasks[task].speed
            rows = progress.sent + progress.skipped + progress.failed
            bar.update(task, completed=rows, rate="" if found is None else f"{found:,.0f}/s")

        try:
            done = replay(tracks, sender, speed=speed, report=report, stop=stop)
            was_interrupted = False
        except KeyboardInterrupt:
            was_interrupted = True
            sender.flush()
    sender.close()
    early = ", ended early" if was_interrupted else ""
    failed = f", failed {sender.failed}" if sender.failed else ""
    console.print(f"sent {sender.sent}, skipped {done.skipped} without a value{failed}{early}", highlight=False)
    return 1 if sender.failed or was_interrupted else 0
