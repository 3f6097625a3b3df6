"""Readings of made-up patients, the same for the same seed: a slow walk for each signal, one value a minute."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
USUAL = {"hr": 85.0, "resp": 16.0, "spo2": 96.0, "abp_sys": 120.0, "abp_dia": 62.0, "abp_mean": 81.0}


def reading(stay_id: str, observed_at: datetime, vitals: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One reading, as a sender writes it."""
    time = observed_at.isoformat().replace("+00:00", "Z")
    return {"schema": "vitals.reading.v1", "stay_id": stay_id, "observed_at": time, "vitals": vitals, **more}


def ended(stay_id: str, at: datetime) -> dict[str, Any]:
    """The event that ends a stay."""
    time = at.isoformat().replace("+00:00", "Z")
    return {"schema": "vitals.stay-event.v1", "stay_id": stay_id, "at": time, "event": "ended"}


def ward(stays: int, minutes: int, start: datetime = START, seed: int = 1) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, reading) of every stay, minute by minute. The last stay loses its blood pressure after half of the time."""
    chance = random.Random(seed)
    names = [f"stay-{seed}-{number}" for number in range(stays)]
    walks = {name: dict.fromkeys(USUAL, 0.0) for name in names}
    for minute in range(minutes):
        for name, walk in walks.items():
            is_falling = name == names[-1] and minute > minutes // 2
            for signal in walk:
                walk[signal] = 0.9 * walk[signal] + chance.gauss(0, 0.8)
            fall = min(35.0, (minute - minutes // 2) * 2.0) if is_falling else 0.0
            vitals = {
                signal: round(usual + walk[signal] - (fall if signal.startswith("abp") else 0.0), 1)
                for signal, usual in USUAL.items()
            }
            vitals["spo2"] = min(vitals["spo2"], 100.0)
            yield name, reading(name, start + timedelta(minutes=minute), vitals)
