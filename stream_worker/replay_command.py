"""`vitalcast replay`: the progress bar and the exit code around stream_worker.replay."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from schemas.recordings import RecordingError, extent_of, find_recordings
from stream_worker.playback import Playback
from stream_worker.replay import Progress, replay, tracks_of, with_values
from stream_worker.sender import Sender, backpressure_of
from stream_worker.settings import Settings
from stream_worker.stopping import stop_on_signals


def run_replay(
    settings: Settings, paths: Sequence[Path], *, speed: float | None, shift_to_now: bool, console: Console
) -> int:
    """Replay, with a progress bar; prints sent and skipped. Returns 1 if a record failed or Ctrl-C ended it early.

    Raises: RecordingError, BrokerUnreachableError, KafkaFaultError.
    """
    recordings = with_values(find_recordings(*paths))
    with stop_on_signals() as stop:
        sender = Sender(settings, backpressure_of(settings, stop))
        tracks = tracks_of(recordings, "end_now" if shift_to_now else "recorded")
        with _bar(console) as bar:
            task = bar.add_task("replay", total=None, rate="")

            def count() -> None:
                """How much there is to do, found beside doing it."""
                with suppress(RecordingError):  # replaying it will say so
                    bar.update(task, total=sum(extent_of(path).rows for path in recordings))

            threading.Thread(target=count, name="count", daemon=True).start()

            def report(progress: Progress) -> None:
                speed = bar.tasks[task].speed
                rows = progress.sent + progress.skipped + progress.failed
                bar.update(task, completed=rows, rate="" if speed is None else f"{speed:,.0f}/s")

            playback = None if speed is None else Playback(speed)
            try:
                done = replay(tracks, sender, playback=playback, report=report, stop=stop)
            except RecordingError as error:
                sender.close()
                raise RecordingError(f"{error}; until then, sent {sender.sent}{sender.failures}") from error
        sender.close()
    early = ", ended early" if stop.is_set() else ""
    told = f"sent {done.sent}, skipped {done.skipped} without a value{sender.failures}{early}"
    console.print(told, soft_wrap=True)
    return 1 if done.failed or stop.is_set() else 0


def _bar(console: Console) -> ProgressBar:
    columns = (TextColumn("Replay"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    return ProgressBar(*columns, TimeRemainingColumn(), console=console)
