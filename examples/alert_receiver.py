"""Keeps the exact list of open alerts, even over its own restarts, and raises an alarm when Vitalcast falls silent.

    python alert_receiver.py kafka-1:9093,kafka-2:9093 --client client.json

Needs only kafka-python[zstd]: copy it and put your pager where `tell` is. It cannot read the demo's in-memory broker.
The list and the offsets up to which it holds are one file, replaced as a whole, so that a crash at any point loses
nothing; what was told in the half second before is told again. Without the file, or if the topic no longer has its
offsets, the list is rebuilt from the beginning of the topic; of the past, only alerts that are still open are told.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaConfigurationError, KafkaError, LogTruncationError, OffsetOutOfRangeError

RETRY_S = 10.0


def tell(text: str) -> None:
    """Your pager, screen or hospital bus. Whoever names a stay chooses characters: none may steer a terminal."""
    print("".join(c if c.isprintable() else "?" for c in text), flush=True)


def apply(open_alerts: dict[str, Any], message: dict[str, Any]) -> None:
    """Take over one revision of an alert."""
    if message["state"] == "cleared":
        open_alerts.pop(message["alert_id"], None)
    else:
        open_alerts[message["alert_id"]] = message


def page(message: dict[str, Any]) -> None:
    """Tell of a revision of an alert, and of when it was: what is open when we begin may have been raised hours ago."""
    where = ", ".join(name for name in (message["stay_id"], message.get("care_unit")) if name)
    tell(f"{message['state']} ({message['priority']}) {where}, {message['event_at']}: {message['message']}")


def read(value: bytes | None) -> dict[str, Any]:
    """The message in a record; nothing if it holds none: anything may have been sent to the topic."""
    try:
        message = json.loads(value or b"")
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def load(path: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Next offset by partition, and the alerts that were open there; nothing, if the file is not there or damaged."""
    if not path.exists():
        return {}, {}
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return dict(state["offsets"]), dict(state["open"])
    except (ValueError, KeyError, TypeError):
        tell(f"{path} is damaged: the list is made again")
        return {}, {}


def save(path: Path, offsets: dict[str, int], open_alerts: dict[str, Any]) -> None:
    """Replace the file whole: there is never half of one."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"offsets": offsets, "open": open_alerts}, indent=1), encoding="utf-8")
    fresh.replace(path)


class Silence:
    """Notices partitions of which no heartbeat has come for `after_s`."""

    def __init__(self, partitions: list[int], after_s: float) -> None:
        self.after_s = after_s
        self.heard = dict.fromkeys(partitions, time.monotonic())
        self.silent: set[int] = set()

    def beat(self, partition: int, state: str, *, is_new: bool) -> None:
        """A heartbeat has come; `is_new` unless it was there when we began."""
        self.heard[partition] = time.monotonic()
        if state == "stopping" and is_new:
            tell(f"partition {partition}: its worker stops; another has to take over")

    def check(self) -> None:
        """Tell of what has become silent, and of what is heard again."""
        now = time.monotonic()
        silent = {partition for partition, at in self.heard.items() if now - at > self.after_s}
        for partition in sorted(silent - self.silent):
            tell(f"ALARM: partition {partition} is SILENT, its beds are not watched (no heartbeat: {self.after_s:g} s)")
        for partition in sorted(self.silent - silent):
            tell(f"partition {partition} is heard again")
        self.silent = silent


def seek(
    consumer: Any, places: list[TopicPartition], offsets: dict[str, int], open_alerts: dict[str, Any]
) -> dict[TopicPartition, int]:
    """Go on where the list ends; forget it and begin anew if the topic no longer reaches back, or on, to there.

    Returns : where the topic ends, if the list is made again: what is before that is history. Else nothing.
    """
    firsts, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
    if any(not firsts[place] <= offsets.get(str(place.partition), firsts[place]) <= ends[place] for place in places):
        offsets.clear()
        open_alerts.clear()
    for place in places:
        consumer.seek(place, offsets.get(str(place.partition), firsts[place]))
    return {} if offsets else dict(ends)


def connect(servers: str, options: dict[str, Any]) -> Any:
    """A consumer; cries out and tries again while no broker answers."""
    while True:
        try:
            # read_committed: what a worker wrote before it crashed, and will write again, is not seen.
            return KafkaConsumer(
                bootstrap_servers=servers,
                bootstrap_timeout_ms=10_000,
                isolation_level="read_committed",
                auto_offset_reset="none",  # revisions that are gone must not be skipped unnoticed
                enable_auto_commit=False,
                metadata_max_age_ms=30_000,  # partitions may be added
                **options,
            )
        except KafkaConfigurationError as error:
            sys.exit(f"an option that cannot be used: {error}")
        except KafkaError as error:
            tell(f"ALARM: no Kafka at {servers} ({error}): no bed is watched from here")
            time.sleep(RETRY_S)


def take(
    message: dict[str, Any], partition: int, open_alerts: dict[str, Any], silence: Silence, *, is_new: bool
) -> None:
    """Take over a message of any schema, and tell of it if it `is_new`: it was not there when we began."""
    if message.get("schema") == "vitals.alert.v1":
        apply(open_alerts, message)
        if is_new:
            page(message)
    elif message.get("schema") == "vitals.heartbeat.v1":
        silence.beat(partition, message["state"], is_new=is_new)


def follow(servers: str, topic: str, path: Path, silent_after_s: float, options: dict[str, Any]) -> None:
    """Follow the alerts until Ctrl-C."""
    consumer = connect(servers, options)
    places = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
    if not places:
        sys.exit(f"no topic {topic} at {servers}")
    consumer.assign(places)
    offsets, open_alerts = load(path)
    history = seek(consumer, places, offsets, open_alerts)
    silence = Silence([place.partition for place in places], silent_after_s)
    while True:
        try:
            polled = consumer.poll(timeout_ms=500)
        except (OffsetOutOfRangeError, LogTruncationError):
            tell("the topic was made anew, or cut before all was read: the list is made again")
            offsets.clear()
            open_alerts.clear()
            history = seek(consumer, places, offsets, open_alerts)
            continue
        for place, records in polled.items():
            for record in records:
                take(read(record.value), place.partition, open_alerts, silence, is_new=not history)
            offsets[str(place.partition)] = consumer.position(place)
            if not history:  # else nothing was told yet of what is open: after a crash the list is made again
                save(path, offsets, open_alerts)
        if history and all(consumer.position(place) >= end for place, end in history.items()):
            history = {}
            for message in open_alerts.values():
                page(message)
            save(path, offsets, open_alerts)
        silence.check()
        if len(consumer.partitions_for_topic(topic)) > len(places):
            tell(f"ALARM: {topic} has more partitions now, whose beds are not watched from here: start this again")
            sys.exit(1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", help="Kafka brokers, each HOST:PORT, separated by commas")
    parser.add_argument("--topic", default="vitals.alerts", help="default: %(default)s")
    parser.add_argument("--state", type=Path, default="alerts.json", metavar="FILE", help="default: %(default)s")
    silent = "cry out after so long without a heartbeat; default: %(default)g"
    parser.add_argument("--silent-after", type=float, default=30.0, metavar="SECONDS", help=silent)
    client = 'more options of kafka-python as JSON, such as {"security_protocol": "SSL", "ssl_cafile": "ca.crt"}'
    parser.add_argument("--client", type=Path, metavar="FILE", help=client)
    wanted = parser.parse_args()
    options = {} if wanted.client is None else json.loads(wanted.client.read_text(encoding="utf-8"))
    with suppress(KeyboardInterrupt):
        follow(wanted.servers, wanted.topic, wanted.state, wanted.silent_after, options)


if __name__ == "__main__":
    main()
