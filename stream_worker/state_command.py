"""`vitalcast state`: what the worker keeps of one stay, read from its changelog, and having it removed.

Forgetting takes the way of every change, through the readings topic: the worker that has the stay in memory takes the
event in the stay's order, clears its alerts and writes the tombstones. Tombstones written past it would be overwritten
by its next chunk.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import numpy as np
from kafka.errors import KafkaError
from kafka.structs import TopicPartition
from rich.console import Console
from rich.table import Table

from model.manifest import read_manifest
from schemas.reading import STAY_EVENT_V1, StayEvent
from stream_worker import clients
from stream_worker.settings import Settings
from stream_worker.stays import BODY, HEAD, SCORING, Extras, Layout, Stays
from stream_worker.times import NEVER, to_text
from stream_worker.ward_words import printable

POLL_MS: Final = 200
READ_WITHIN_S: Final = 120.0


class StateError(Exception):
    """The state cannot be shown or removed; the message is one line for the user and names no stay."""


class StateReader:
    """Reads what the changelog holds of one stay, by partition, and follows what comes."""

    def __init__(self, settings: Settings, stay_id: str) -> None:
        self._settings = settings
        self._keys = frozenset(Stays.keys_of(stay_id))
        self.newest: defaultdict[int, dict[bytes, bytes]] = defaultdict(dict)
        self._consumer = clients.consumer(settings, auto_offset_reset="earliest", enable_auto_commit=False)

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def read_to_end(self) -> None:
        """Read from the beginning to where the committed records end now.

        Raises: KafkaFaultError; StateError if that takes too long.
        """
        topic = self._settings.changelog_topic
        with clients.one_line_errors(self._settings):
            numbers = self._consumer.partitions_for_topic(topic)
            if not numbers:
                raise clients.missing_topic(self._settings, topic)
            partitions = [TopicPartition(topic, number) for number in numbers]
            self._consumer.assign(partitions)
            self._consumer.seek_to_beginning(*partitions)
            ends = self._consumer.end_offsets(partitions)
            deadline = time.monotonic() + READ_WITHIN_S
            while any(self._consumer.position(partition) < end for partition, end in ends.items()):
                if time.monotonic() > deadline:
                    raise StateError(f"topic {topic} could not be read to its end within {READ_WITHIN_S:.0f} s")
                self.poll()

    def poll(self) -> None:
        """Take what has come since."""
        for partition, records in self._consumer.poll(POLL_MS).items():
            for record in records:
                if record.key not in self._keys:
                    continue
                if record.value is None:
                    self.newest[partition.partition].pop(record.key, None)
                else:
                    self.newest[partition.partition][record.key] = record.value

    @property
    def partitions(self) -> list[int]:
        """Those that hold anything of the stay: one, unless its records were sent to several."""
        return sorted(partition for partition, found in self.newest.items() if found)


def run_show(settings: Settings, stay_id: str, console: Console, *, as_json: bool) -> None:
    """Print what is kept of a stay. No worker needs to run.

    Raises: StateError if there is nothing; ArtifactError, BrokerUnreachableError, KafkaFaultError.
    """
    layout = Layout.of(read_manifest(settings.model))
    with closing(StateReader(settings, stay_id)) as reader:
        reader.read_to_end()
    if not reader.partitions:
        raise StateError("no state of this stay")
    for partition in reader.partitions:
        shown = describe_state(layout, stay_id, partition, reader.newest[partition])
        if as_json:
            print(json.dumps(shown))
        else:
            _print(shown, console)


def run_forget(settings: Settings, stay_id: str, console: Console, *, within_s: float) -> None:
    """End the stay wherever there is state of it; returns when the changelog holds nothing of it any more.

    Raises: StateError if no worker has done it within `within_s`; BrokerUnreachableError, KafkaFaultError.
    """
    with closing(StateReader(settings, stay_id)) as reader:
        reader.read_to_end()
        partitions = reader.partitions
        if not partitions:
            console.print("No state of this stay: nothing to forget.")
            return
        _end(settings, stay_id, partitions)
        deadline = time.monotonic() + within_s
        while reader.partitions:
            if time.monotonic() > deadline:
                raise StateError(
                    f"the stay's end was sent, but no worker has taken it within {within_s:.0f} s: its state is still "
                    "there, and goes as soon as a worker runs"
                )
            reader.poll()
    console.print("Forgotten: the stay's alerts are cleared, its state is removed.")


def _end(settings: Settings, stay_id: str, partitions: list[int]) -> None:
    """Send the event that ends a stay to `partitions`. Raises: KafkaFaultError."""
    event = StayEvent(schema=STAY_EVENT_V1, stay_id=stay_id, at=datetime.now(UTC), event="ended")
    record = msgspec.json.encode(event)
    with closing(clients.producer(settings)) as producer, clients.one_line_errors(settings):
        topic, key = settings.readings_topic, stay_id.encode()
        try:
            for sent in [producer.send(topic, record, key, partition=number) for number in partitions]:
                sent.get(READ_WITHIN_S)
        except KafkaError as error:
            raise clients.KafkaFaultError(f"topic {topic}: {type(error).__name__}") from error


def describe_state(layout: Layout, stay_id: str, partition: int, records: dict[bytes, bytes]) -> dict[str, Any]:
    """A stay's state in words and units. Parts of another encoding or model layout are named, not guessed at."""
    head, body, scoring = (records.get(kind + stay_id.encode()) for kind in (HEAD, BODY, SCORING))
    shown: dict[str, Any] = {
        "stay_id": stay_id,
        "partition": partition,
        "bytes": {name: len(part or b"") for name, part in (("head", head), ("body", body), ("scoring", scoring))},
    }
    size = layout.head.itemsize
    if head is None or not layout.owns(head, size + 1):
        return {**shown, "readable": False}
    row = np.frombuffer(head, layout.head, 1)[0]
    extras = msgspec.msgpack.decode(head[size:], type=Extras)
    shown |= {
        "readable": True,
        "last_offset": int(row["offset"]),
        "newest_observed_at": _time(row["newest"]),
        "newest_received_at": _time(int(row["ingested_ms"]) * 1000),
        "care_unit": extras.care_unit,
        "own_limits": msgspec.to_builtins(extras.limits),
        "spo2_scale": extras.spo2_scale,
        "values": {
            name: {"last": _value(layout, k, row["last"][k]), "at": _time(row["last_at"][k])}
            for k, name in enumerate(layout.names)
            if row["last_at"][k] != NEVER
        },
        "charted": {
            name: {"last": value, "at": _time(at_us)}
            for name, (value, at_us) in extras.news2_inputs.items()
            if name not in layout.names
        },
        "alerts": [
            {
                **dict(zip(("kind", "signal", "side", "cause"), key, strict=True)),
                "since": _time(entry.since_us),
                "priority": entry.priority,
                "raised_offset": entry.raised_offset,
                "revision": entry.revision,
            }
            for key, entry in extras.alerts.items()
        ],
    }
    if body is not None and layout.owns(body, layout.body.itemsize):
        shown |= _describe_body(layout, np.frombuffer(body, layout.body, 1)[0])
    if scoring is not None and layout.owns(scoring, layout.scoring.itemsize):
        waiting = np.frombuffer(scoring, layout.scoring, 1)[0]["due"] > row["closed_step"]
        shown["forecasts_to_be_scored"] = int(waiting.sum())
    return shown


def _describe_body(layout: Layout, row: Any) -> dict[str, Any]:
    """The window, oldest step first, and whose model state it is."""
    steps, closed = layout.manifest.context_steps, int(row["step"])
    window = {}
    for step in range(closed - steps + 1, closed + 1) if closed != NEVER else ():
        quanta = row["window"][step % steps]
        seen = np.flatnonzero(quanta != layout.missing)
        if len(seen):
            columns = layout.inputs[seen]
            values = {layout.names[k]: _value(layout, k, quanta[i]) for i, k in zip(seen, columns, strict=True)}
            window[_time(step * layout.step_us)] = values
    return {
        "closed_until": None if closed == NEVER else _time((closed + 1) * layout.step_us),
        "window": window,
        "is_of_this_model": int(row["model"]) == layout.model_key,
    }


def _value(layout: Layout, k: int, quanta: Any) -> float:
    return round(float(quanta) * float(layout.precision[k]), 6)


def _time(us: Any) -> str | None:
    return None if us == NEVER else to_text(int(us))


def _print(shown: dict[str, Any], console: Console) -> None:
    """The state as tables: what it is, the newest values, the conditions of alerts."""
    facts = Table(show_header=False, box=None)
    steps = f"{len(shown.get('window', ()))} steps with values (--json has them)"
    for name, fact in (shown | {"window": steps}).items():
        if name not in ("values", "alerts"):
            facts.add_row(name.replace("_", " "), printable(str(fact)))  # a sender named the unit
    console.print(facts)
    if not shown["readable"]:
        console.print("Written by another version, or for a model with other signals: name that one with --model DIR.")
        return
    values = Table("Signal", "Last", "At")
    for signal, value in shown.get("values", {}).items():
        values.add_row(signal, str(value["last"]), value["at"])
    console.print(values)
    if shown.get("alerts"):
        alerts = Table("Condition", "Priority", "Since", "Revision")
        for alert in shown["alerts"]:
            words = " ".join(alert[part] for part in ("kind", "signal", "side", "cause") if alert[part])
            revision = "not raised" if alert["raised_offset"] is None else str(alert["revision"])
            alerts.add_row(words, alert["priority"], alert["since"] or "-", revision)
        console.print(alerts)
