"""Faults of sensors and of the data: low priority, never counted as physiological."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from stream_worker.alerts.entries import AlertKey
from stream_worker.alerts.life import NO_DATA, Entries, Finding, Presence, is_open
from stream_worker.alerts.observation import Observation
from stream_worker.times import SECOND_US

# A signal that came and no longer does. After two hours it is taken to be disconnected on purpose.
SENSOR_OFF_AFTER_S: Final = 3600.0
SENSOR_OFF_UNTIL_S: Final = 7200.0
# One signal for each sensor: what else comes from it goes with it.
SENSOR_SIGNALS: Final = ("hr", "resp", "spo2", "abp_mean")
# An arterial pressure that does not move by a tenth for so long is a closed tap or a stuck device. Saturation is often
# constant for hours, and so is the heart rate of a paced patient.
FLATLINE_AFTER_S: Final = 900.0
FLATLINE_SIGNALS: Final = ("abp_sys", "abp_dia", "abp_mean")
IMPLAUSIBLE_DELAY_S: Final = 300.0
# Electrical and mechanical rate differ by this much in atrial fibrillation and in motion artefacts, not otherwise.
DISAGREEMENT_RATE: Final = 20.0
DISAGREEMENT_DELAY_S: Final = 3600.0
# Under these a value is no measurement. A pulse that differs may be ectopy: the heart rate counts all the same.
SUSPECT_CAUSES: Final = frozenset({"flatline", "implausible"})
TECHNICAL_RECOVER_S: Final = 60.0
# Somebody has looked, or will not: a technical fault is reported once in a shift.
TECHNICAL_REARM_S: Final = 43_200.0


_SENSOR_OFF: Final = {signal: AlertKey("technical", signal, None, "sensor_off") for signal in SENSOR_SIGNALS}
_FLATLINE: Final = {signal: AlertKey("technical", signal, None, "flatline") for signal in FLATLINE_SIGNALS}
_DISAGREEMENT: Final = AlertKey("technical", "hr", None, "disagreement")


def findings(entries: Entries, seen: Observation) -> Iterator[Finding]:
    """What the technical rules say of a reading."""
    if NO_DATA in entries:
        yield Finding(NO_DATA, "off", "low")
    yield from _sensor_off(entries, seen)
    yield from _flatline(entries, seen)
    yield from _implausible(entries, seen)
    yield from _disagreement(entries, seen)


def suspects(entries: Entries) -> frozenset[str | None]:
    """The signals whose values are no measurement at present, whether that is told or held back while it rests."""
    return frozenset(
        key.signal
        for key, entry in entries.items()
        if key.cause in SUSPECT_CAUSES and (is_open(entry) or (entry.is_held and entry.recovered_since_us is None))
    )


def _sensor_off(entries: Entries, seen: Observation) -> Iterator[Finding]:
    for signal, key in _SENSOR_OFF.items():
        last_us = seen.last_at_us.get(signal)
        if last_us is None:
            continue
        silent_s, entry = (seen.at_us - last_us) / SECOND_US, entries.get(key)
        if SENSOR_OFF_AFTER_S <= silent_s < SENSOR_OFF_UNTIL_S:
            presence: Presence = "on"
        elif entry is None:
            continue
        elif silent_s >= SENSOR_OFF_UNTIL_S:
            presence = "unknown"
        elif last_us > entry.since_us:
            presence = "off"
        else:
            continue  # it did not come: this reading is older than the one that missed it
        yield Finding(
            key,
            presence,
            "low",
            data_lost_s=0.0,
            rearm_s=TECHNICAL_REARM_S,
            evidence={"silent_s": SENSOR_OFF_AFTER_S} if presence == "on" else {},
            since_us=last_us,
            is_seen=False,
        )


def _flatline(entries: Entries, seen: Observation) -> Iterator[Finding]:
    for signal, key in _FLATLINE.items():
        value = seen.values.get(signal)
        if value is None:
            if key in entries:
                yield Finding(key, "unknown", "low", rearm_s=TECHNICAL_REARM_S)
            continue
        changed_us = seen.changed_at_us[signal]
        is_flat = seen.at_us - changed_us >= FLATLINE_AFTER_S * SECOND_US
        if is_flat or key in entries:
            yield Finding(
                key,
                "on" if is_flat else "off",
                "low",
                rearm_s=TECHNICAL_REARM_S,
                evidence={"last": value},
                since_us=changed_us,
            )


def _implausible(entries: Entries, seen: Observation) -> Iterator[Finding]:
    gone = [key.signal for key in entries if key.cause == "implausible" and key.signal not in seen.implausible]
    for signal in (*seen.implausible, *gone):
        is_on = signal in seen.implausible
        presence: Presence = "on" if is_on else "off" if signal in seen.values else "unknown"
        key = AlertKey("technical", signal, None, "implausible")
        yield Finding(key, presence, "low", IMPLAUSIBLE_DELAY_S, TECHNICAL_RECOVER_S, rearm_s=TECHNICAL_REARM_S)


def _disagreement(entries: Entries, seen: Observation) -> Iterator[Finding]:
    hr, pulse = seen.values.get("hr"), seen.values.get("pulse")
    is_known = hr is not None and pulse is not None
    is_on = hr is not None and pulse is not None and abs(hr - pulse) > DISAGREEMENT_RATE
    if not is_on and _DISAGREEMENT not in entries:
        return
    yield Finding(
        _DISAGREEMENT,
        "on" if is_on else "off" if is_known else "unknown",
        "low",
        DISAGREEMENT_DELAY_S,
        TECHNICAL_RECOVER_S,
        rearm_s=TECHNICAL_REARM_S,
        evidence={"last": hr, "pulse": pulse} if is_known else {},
    )
