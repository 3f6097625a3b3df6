"""The clock of a replay: where it is in recorded time, how fast it goes, and whether it goes at all."""

from __future__ import annotations

import threading
import time
from typing import Final, NamedTuple

# Steps of "faster" and "slower", times real time: up to an hour in six seconds.
SPEEDS: Final = (1.0, 5.0, 20.0, 60.0, 200.0, 600.0)
LONGEST_WAIT_S: Final = 0.2  # so that a stop is noticed soon
# A sender that was held back for longer goes on from where it is; to hurry after would be another speed than asked for.
LATE_S: Final = 1.0


class PlayState(NamedTuple):
    """What a viewer needs to know; `at_s` is recorded time."""

    is_playing: bool
    has_ended: bool
    speed: float
    at_s: float


class Playback:
    """Recorded time, which runs `speed` times as fast as the clock while it plays. Any thread may turn it.

    It begins at `start_s`, once the sender gets there: what lies before is due at once.
    """

    def __init__(self, speed: float, start_s: float = 0.0) -> None:
        self._turned = threading.Condition()
        self._speed = speed
        self._at_s = start_s  # at the moment `_since`; None: it stands still
        self._since: float | None = None
        self._latest_s = start_s  # of the rows that were waited for
        self._has_begun = self._has_ended = False
        self._is_playing = True

    @property
    def state(self) -> PlayState:
        """How it stands now."""
        with self._turned:
            return PlayState(self._is_playing, self._has_ended, self._speed, self._position())

    def play(self) -> None:
        """Go on."""
        self._turn(is_playing=True)

    def pause(self) -> None:
        """Stand still; what is due already may still be sent."""
        self._turn(is_playing=False)

    def faster(self) -> None:
        """Take the next greater of SPEEDS, if there is one."""
        self._turn(speed=next((speed for speed in SPEEDS if speed > self._speed), self._speed))

    def slower(self) -> None:
        """Take the next smaller of SPEEDS, if there is one."""
        self._turn(speed=next((speed for speed in reversed(SPEEDS) if speed < self._speed), self._speed))

    def end(self) -> None:
        """Everything was played."""
        with self._turned:
            self._at_s, self._since = self._position(), None
            self._has_ended = True

    def wait_until(self, at_s: float, stop: threading.Event) -> None:
        """Return once recorded time is `at_s`, or `stop` is set."""
        with self._turned:
            at_s = self._latest_s = max(self._latest_s, at_s)  # one row out of order does not hold the others back
            if not self._has_begun and at_s > self._at_s:
                self._has_begun = True
                self._run()
            while (left_s := self._left_s(at_s)) > 0 and not stop.is_set():
                self._turned.wait(min(left_s, LONGEST_WAIT_S))
            if self._since is not None and -left_s > LATE_S:
                self._at_s, self._since = at_s, time.monotonic()

    def _left_s(self, at_s: float) -> float:
        """Seconds by the clock; negative if it is late."""
        left_s = (at_s - self._position()) / self._speed
        return left_s if self._is_playing or left_s <= 0 else LONGEST_WAIT_S

    def _turn(self, *, is_playing: bool | None = None, speed: float | None = None) -> None:
        with self._turned:
            self._at_s = self._position()
            if is_playing is not None:
                self._is_playing = is_playing
            self._speed = speed or self._speed
            self._run()
            self._turned.notify_all()

    def _run(self) -> None:
        is_running = self._is_playing and self._has_begun and not self._has_ended
        self._since = time.monotonic() if is_running else None

    def _position(self) -> float:
        return self._at_s if self._since is None else self._at_s + (time.monotonic() - self._since) * self._speed
