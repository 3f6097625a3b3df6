"""A live page without Kafka: records are applied by the test, and a browser sees what becomes of them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from schemas.alert import Heartbeat
from schemas.codec import encode
from schemas.forecast import Forecast, ModelReference, SignalForecast
from schemas.reading import Reading
from stream_worker.health import bind
from stream_worker.playback import Playback
from stream_worker.settings import Settings, load_settings
from stream_worker.view.link import Link, page_board
from stream_worker.view.server import serving
from stream_worker.ward import Message, Record
from tests.ward_records import SOURCE

BEAT_S: Final = 5.0  # the page says after 30 s that the worker is silent
HORIZONS_S = [60, 300, 900, 1800, 3600]
LEVELS = [0.05, 0.25, 0.5, 0.75, 0.95]
VITALS = {"hr": 80.0, "abp_mean": 75.0, "spo2": 97.0, "resp": 14.0, "temp": 37.0}


class Served:
    """A board that is being served. Times are minutes from its own start, which is now."""

    def __init__(self, settings: Settings, playback: Playback | None) -> None:
        self.start = datetime.now(UTC)
        self.board = page_board(settings)
        self.link = Link()
        self.settings = settings
        self.playback = playback
        self.port = 0
        self._offsets = itertools.count()
        self._serving = ExitStack()

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}/"

    def serve(self) -> None:
        """Start the server; again, after `stop`, on the same port."""
        bound = self._serving.enter_context(bind("127.0.0.1", self.port, "view"))
        self.port = bound.getsockname()[1]
        self._serving.enter_context(serving(self.settings, self.board, self.link, bound, self.playback))

    def stop(self) -> None:
        """End the server, not the board."""
        self._serving.close()

    def plays(self) -> bool:
        """Whether the playback does."""
        return self.playback is not None and self.playback.state.is_playing

    def at(self, minutes: float) -> datetime:
        """That many minutes after the start."""
        return self.start + timedelta(minutes=minutes)

    def apply(self, record: Record, came_ago_s: float = 0) -> None:
        """As if it had come from Kafka so long ago."""
        came_ms = int((time.time() - came_ago_s) * 1000)
        message = Message("vitals", 0, next(self._offsets), came_ms, encode(record))
        self.board.apply(record, message)

    def reading(self, stay_id: str, minutes: float = 0, **vitals: float) -> None:
        """One reading, by default of all vital signs."""
        self.apply(Reading(stay_id=stay_id, observed_at=self.at(minutes), vitals=dict(vitals or VITALS)))

    def forecast(self, stay_id: str, minutes: float = 0, shift: float = 0, **vitals: float) -> None:
        """One forecast of the vital signs (by default of all): bands that widen, their median `shift` off."""
        signals = {
            name: SignalForecast(value, self.at(minutes), [row(value + shift, step) for step in range(1, 6)])
            for name, value in (vitals or VITALS).items()
        }
        self.apply(forecast_of(stay_id, self.at(minutes), signals))

    def heartbeat(self, ago_s: float = 0, state: Literal["running", "stopping"] = "running") -> None:
        """What the worker said of itself."""
        at = datetime.now(UTC) - timedelta(seconds=ago_s)
        self.apply(Heartbeat(partition=0, produced_at=at, newest_observed_at=at, state=state))

    @contextmanager
    def worker(self) -> Iterator[None]:
        """A worker that lives meanwhile, however long that takes."""
        has_ended = threading.Event()

        def beat() -> None:
            while not has_ended.wait(BEAT_S):
                self.heartbeat()

        thread = threading.Thread(target=beat, name="worker")
        self.heartbeat()
        thread.start()
        try:
            yield
        finally:
            has_ended.set()
            thread.join()


def row(median: float, width: float) -> list[float]:
    """Five quantiles around the median."""
    return [round(median + width * step, 1) for step in (-2, -1, 0, 1, 2)]


def forecast_of(stay_id: str, at: datetime, signals: dict[str, SignalForecast], **changes: Any) -> Forecast:
    """A forecast of the usual horizons and levels; `changes` override any field."""
    known: dict[str, Any] = {
        "forecast_id": f"{stay_id}-{at:%H%M%S%f}",
        "issued_at": at,
        "produced_at": at,
        "status": "ok",
        "model": ModelReference("m", "1", "0" * 12),
        "step_s": 60,
        "horizons_s": HORIZONS_S,
        "quantile_levels": LEVELS,
        "anomalies": {},
        "source": SOURCE,
    }
    return Forecast(stay_id=stay_id, signals=signals, **{**known, **changes})


@contextmanager
def served(*, playback: Playback | None = None, **settings: Any) -> Iterator[Served]:
    """A served board, whose page may turn the playback; the settings are those of the page."""
    live = Served(load_settings(**settings), playback)
    live.serve()
    try:
        yield live
    finally:
        live.stop()
