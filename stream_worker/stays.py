"""The stays of a worker as columns: one slot a stay, whose rows in memory are the bytes in the changelog.

A stay's state is three records. The *head* changes with every reading: newest values, the open bins, alerts, the last
source offset. The *body* changes when a step closes: the window and the model's state. *Scoring* holds forecasts that
are not due yet. All are written in the same transaction; recovery joins them.

    steps      ... c-1   c | c+1    c+2           c: the last closed step
                 window    | older  newest        at most two bins are open (grace_s <= step_s)
    model state          S | S1     S2            cached after each of them; S1, S2 only while their bins stand still
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from model.manifest import Manifest
from schemas.reading import LimitRange
from schemas.signals import known_signals
from stream_worker.alerts.budget import Allowance, Budget
from stream_worker.alerts.entries import AlertEntry, AlertKey
from stream_worker.scoring import Grid
from stream_worker.times import NEVER, SECOND_US

Slots = NDArray[np.intp]

HEAD: Final = b"h"
BODY: Final = b"b"
SCORING: Final = b"s"
PARTITION: Final = b"p"
# Of all records; another number is never guessed at: the partition's state is made again from its readings.
ENCODING: Final = 2

REMEMBERED_READINGS: Final = 8  # accepted readings that a repeat is recognised against
OPEN_BINS: Final = 2
_FIRST_CAPACITY: Final = 256


class Layout(NamedTuple):
    """How a stay is laid out for one model: K known signals, I inputs, V forecast ones, T context steps, Q levels."""

    manifest: Manifest
    task_key: int  # of what the records are laid out for: models of one task can follow each other
    names: tuple[str, ...]  # K
    precision: NDArray[np.float64]  # (K,)
    inputs: Slots  # (I,) columns among the known signals
    forecast: Slots  # (V,) likewise
    missing: int  # of a value in a window
    step_us: int
    head: np.dtype[Any]
    body: np.dtype[Any]
    scoring: np.dtype[Any]
    grid: Grid
    forecast_inputs: Slots  # (V,) columns among the inputs
    lowest: NDArray[np.float64]  # (V,) plausible quanta of the forecast signals
    highest: NDArray[np.float64]

    @classmethod
    def of(cls, manifest: Manifest) -> Layout:
        """The layout for `manifest`; values are held as whole steps of their precision, in 2 bytes if all fit."""
        signals = known_signals(manifest.inputs)
        names = tuple(signal.name for signal in signals)
        largest = max(max(abs(s.low), abs(s.high)) / s.precision for s in signals)
        quantum: np.dtype[Any] = np.dtype(np.int16 if largest < np.iinfo(np.int16).max else np.int32)
        grid, v, levels = Grid.of(manifest), len(manifest.signals), len(manifest.quantile_levels)
        m = manifest
        task = (m.inputs, m.signals, m.step_s, m.horizons_s, m.quantile_levels, m.context_steps)
        return cls(
            manifest=manifest,
            task_key=int.from_bytes(hashlib.sha256(msgspec.msgpack.encode(task)).digest()[:4], "little"),
            names=names,
            precision=np.array([signal.precision for signal in signals]),
            inputs=np.array([names.index(signal.name) for signal in manifest.inputs]),
            forecast=np.array([names.index(name) for name in manifest.signals]),
            missing=int(np.iinfo(quantum.type).min),
            step_us=manifest.step_s * SECOND_US,
            head=_head(quantum, len(names), v, levels),
            body=_body(quantum, manifest),
            scoring=grid.dtype(quantum, v, levels),
            grid=grid,
            lowest=np.array([np.ceil(s.low / s.precision - 1e-9) for s in manifest.forecast_signals]),
            highest=np.array([np.floor(s.high / s.precision + 1e-9) for s in manifest.forecast_signals]),
            forecast_inputs=np.array([[s.name for s in manifest.inputs].index(name) for name in manifest.signals]),
        )

    @property
    def model_key(self) -> int:
        """Which model a stored state belongs to: a state of another one is primed again from its window."""
        return int.from_bytes(hashlib.sha256(self.manifest.sha256.encode()).digest()[:8], "little")

    def owns(self, record: bytes, size: int) -> bool:
        """Whether a stored record is of this encoding and task, and holds `size` bytes; others are not guessed at."""
        if len(record) < size or record[0] != ENCODING:
            return False
        return int.from_bytes(record[4:8], "little") == self.task_key

    @property
    def body_before_state(self) -> tuple[str, ...]:
        """The fields of a body that any model of the task reads alike."""
        names = self.body.names or ()
        return names[: names.index("state32")]

    @property
    def state_at(self) -> int:
        """Where the model's state begins in a body, in bytes."""
        return self.body.itemsize - 4 * self.manifest.state_float32 - 2 * self.manifest.state_float16


def _head(quantum: np.dtype[Any], k: int, v: int, levels: int) -> np.dtype[Any]:
    """A stay's head: K known signals, of which V are forecast."""
    open_bin = np.dtype(
        [
            ("step", np.int64),
            ("as_of", np.int64),  # newest reading in it
            ("count", np.uint16, k),
            ("sum", np.int64 if quantum.itemsize > 2 else np.int32, k),
            ("low", quantum, k),
            ("high", quantum, k),
            ("at", np.int64, k),  # newest time each signal was observed
        ]
    )
    return np.dtype(
        [
            ("encoding", np.uint8),
            ("oldest_fingerprint", np.uint8),
            ("unused", np.uint8, 2),
            ("task", np.uint32),
            ("offset", np.int64),  # of the last accepted reading
            ("ingested_ms", np.int64),  # its Kafka timestamp; where none was accepted, that of the last event
            ("newest", np.int64),  # newest observed_at of an accepted reading, microseconds
            ("closed_step", np.int64),
            ("fingerprints", np.uint64, REMEMBERED_READINGS),
            ("last_at", np.int64, k),
            ("changed_at", np.int64, k),  # since when `last` has not changed
            ("last", quantum, k),
            ("bins", open_bin, OPEN_BINS),  # by step % 2
            ("expected_step", np.int64, OPEN_BINS),
            ("expected", quantum, (OPEN_BINS, v, levels)),  # what was forecast for that step, by step % 2
        ]
    )


def _body(quantum: np.dtype[Any], manifest: Manifest) -> np.dtype[Any]:
    """A stay's body: what only changes when a step closes."""
    return np.dtype(
        [
            ("encoding", np.uint8),
            ("has_started", np.uint8),  # a step with a value has closed
            ("unused", np.uint8, 2),
            ("task", np.uint32),
            ("model", np.uint64),
            ("step", np.int64),  # the last closed step: equals the head's, or the two do not belong together
            ("as_of", np.int64),
            ("at", np.int64, len(manifest.inputs)),  # newest time each input was observed in a closed step
            ("window", quantum, (manifest.context_steps, len(manifest.inputs))),  # by step % T
            # The model's own from here on: one of another model is primed again from the window.
            ("state32", np.float32, manifest.state_float32),
            ("state16", np.float16, manifest.state_float16),
        ]
    )


class Extras(msgspec.Struct, array_like=True, omit_defaults=True):
    """The part of a head that most stays have little of."""

    care_unit: str | None = None
    limits: dict[str, LimitRange] = {}
    spo2_scale: int | None = None
    alerts: dict[AlertKey, AlertEntry] = {}
    allowance: Allowance | None = None  # None: nothing was raised yet
    news2_inputs: dict[str, tuple[float | str, int]] = {}  # the newest of each and its time
    event_offset: int = -1  # of the last stay event
    event_ms: int = 0  # when that came

    @property
    def has_alerts(self) -> bool:
        """Whether any reading may move one of them; what only rests waits for its condition to come back."""
        return any(entry.since_us != NEVER or entry.known is not None for entry in self.alerts.values())


class PartitionState(msgspec.Struct):
    """The changelog record of what a partition's stays share."""

    encoding: int
    next_offset: int
    budget: Budget = msgspec.field(default_factory=Budget)
    topic: str | None = None  # that `next_offset` is of; an earlier version did not keep it


_encode_extras = msgspec.msgpack.Encoder().encode
_decode_extras = msgspec.msgpack.Decoder(Extras).decode


def _rows(column: NDArray[Any], slots: Slots) -> dict[int, bytes]:
    """The bytes of each row by slot: what numpy makes of a column that is of no type."""
    return dict(zip(slots.tolist(), column.view(f"V{column.itemsize}")[slots].tolist(), strict=True))


class Stays:
    """All stays of the assigned partitions. Rows of `head` and `body` are read and written in place."""

    def __init__(self, manifest: Manifest, initial_state: torch.Tensor) -> None:
        """`initial_state` is the model's, float32 (1, S)."""
        self._set_model(manifest, initial_state)
        self._slots: dict[int, dict[str, int]] = {}
        self._free: list[int] = []
        self.head: NDArray[Any] = np.zeros(0, self.layout.head)
        self.body: NDArray[Any] = np.zeros(0, self.layout.body)
        self.next_offsets: dict[int, int] = {}  # by partition: older records are done
        self.topics: dict[int, str] = {}  # by partition: that `next_offsets` are of, where that is known
        self.budgets: defaultdict[int, Budget] = defaultdict(Budget)  # by partition
        self._allocate(0)

    def _set_model(self, manifest: Manifest, initial_state: torch.Tensor) -> None:
        self.layout = Layout.of(manifest)
        self._initial32 = initial_state[0, : manifest.state_float32].numpy()
        self._initial16 = initial_state[0, manifest.state_float32 :].to(torch.float16).numpy()

    def change_model(self, manifest: Manifest, initial_state: torch.Tensor) -> None:
        """Go on with another model of the same task. The old one's states are void until they are primed again.

        Raises: ValueError if the other model is made for another task.
        """
        if Layout.of(manifest).task_key != self.layout.task_key:
            raise ValueError("its inputs, signals, steps, horizons or quantile levels differ")
        self._set_model(manifest, initial_state)
        before = self.body
        self.body = np.zeros(len(before), self.layout.body)
        for name in self.layout.body_before_state:
            self.body[name] = before[name]
        shape = len(self.body), OPEN_BINS
        self.open32 = np.zeros((*shape, manifest.state_float32), np.float32)
        self.open16 = np.zeros((*shape, manifest.state_float16), np.float16)
        self.open_holds = np.zeros(shape, np.bool_)

    def _allocate(self, capacity: int) -> None:
        """Make room for `capacity` stays, keeping those there are."""
        layout, manifest = self.layout, self.layout.manifest
        used = len(self.head)

        def grown(name: str, dtype: Any, *shape: int) -> NDArray[Any]:
            array = np.zeros((capacity, *shape), dtype)
            if used:
                array[:used] = getattr(self, name)
            return array

        self.head = grown("head", layout.head)
        self.body = grown("body", layout.body)
        self.scoring = grown("scoring", layout.scoring)
        # Model states after the older and the newest open step, and whether they still hold; never stored.
        self.open32 = grown("open32", np.float32, OPEN_BINS, manifest.state_float32)
        self.open16 = grown("open16", np.float16, OPEN_BINS, manifest.state_float16)
        self.open_holds = grown("open_holds", np.bool_, OPEN_BINS)
        # By step % T: whether a forecast signal was observed in the step; follows from window and bins.
        self.is_filled = grown("is_filled", np.bool_, manifest.context_steps)
        self.has_alerts = grown("has_alerts", np.bool_)
        # Which records are to be stored: whoever writes into a row marks it.
        self.head_changed = grown("head_changed", np.bool_)
        self.body_changed = grown("body_changed", np.bool_)
        self.scoring_changed = grown("scoring_changed", np.bool_)
        # Whether what is stored is of the model before: body and scoring are then stored together.
        self.is_primed = grown("is_primed", np.bool_)
        self.partition = grown("partition", np.int32)
        self.is_used = grown("is_used", np.bool_)
        self.ids: list[str] = [*getattr(self, "ids", []), *[""] * (capacity - used)]
        self.extras: list[Extras] = [*getattr(self, "extras", []), *(Extras() for _ in range(capacity - used))]
        self._free.extend(range(capacity - 1, used - 1, -1))

    def __len__(self) -> int:
        """Stays that are tracked."""
        return sum(map(len, self._slots.values()))

    def find(self, partition: int, stay_id: str) -> int | None:
        """The stay's slot, or None if it is not tracked."""
        return self._slots.get(partition, {}).get(stay_id)

    def find_or_add(self, partition: int, stay_id: str) -> int:
        """The stay's slot; a new one is fresh."""
        slots = self._slots.setdefault(partition, {})
        slot = slots.get(stay_id)
        if slot is None:
            if not self._free:
                self._allocate(max(_FIRST_CAPACITY, 2 * len(self.head)))
            slot = slots[stay_id] = self._free.pop()
            self.ids[slot] = stay_id
            self.partition[slot] = partition
            self.is_used[slot] = True
            self.start_anew(slot)
        return slot

    def start_anew(self, slot: int) -> None:
        """Forget the slot's readings, as if the stay had just begun. Its limits, care unit and alerts stay."""
        head, body = self.head[slot : slot + 1], self.body[slot : slot + 1]
        offset = int(head["offset"][0]) if head["encoding"][0] else -1
        head[:] = np.zeros((), self.layout.head)
        head["encoding"], head["task"] = ENCODING, self.layout.task_key
        head["offset"] = offset
        for field in ("newest", "closed_step", "last_at", "changed_at", "expected_step"):
            head[field] = NEVER
        head["last"] = self.layout.missing
        head["bins"]["step"] = NEVER
        body[:] = np.zeros((), self.layout.body)
        body["encoding"], body["task"] = ENCODING, self.layout.task_key
        body["model"] = self.layout.model_key
        body["step"] = body["as_of"] = body["at"] = NEVER
        body["window"] = self.layout.missing
        body["state32"] = self._initial32
        body["state16"] = self._initial16
        scoring = self.scoring[slot : slot + 1]
        scoring[:] = np.zeros((), self.layout.scoring)  # whoever had the slot before is not to be stored as this stay's
        scoring["encoding"], scoring["task"] = ENCODING, self.layout.task_key
        scoring["due"] = NEVER
        scoring["width"] = 1.0
        self.open_holds[slot] = False
        self.is_filled[slot] = False
        self.is_primed[slot] = False

    def remove(self, slot: int) -> None:
        """Forget the stay."""
        del self._slots[int(self.partition[slot])][self.ids[slot]]
        self.is_used[slot] = False
        self.head_changed[slot] = self.body_changed[slot] = self.scoring_changed[slot] = False
        self.head["encoding"][slot] = 0
        self.ids[slot] = ""
        self.extras[slot] = Extras()
        self.has_alerts[slot] = False
        self._free.append(slot)

    def in_partition(self, partition: int) -> Slots:
        """The slots of the partition's stays."""
        return np.flatnonzero(self.is_used & (self.partition == partition))

    # --- the changelog ---

    def encode_changes(self) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
        """Partitions and changelog records of what has changed since the last call; a body comes before its head."""
        slots = np.flatnonzero(self.head_changed | self.body_changed | self.scoring_changed)
        if not len(slots):  # as after nearly every look at a partition's silence
            return
        has_both = self.is_primed & (self.body_changed | self.scoring_changed)
        bodies = _rows(self.body, np.flatnonzero(self.body_changed | has_both))
        scorings = _rows(self.scoring, np.flatnonzero(self.scoring_changed | has_both))
        self.is_primed &= ~has_both
        self.head_changed[:] = self.body_changed[:] = self.scoring_changed[:] = False
        heads = _rows(self.head, slots)
        for slot, partition in zip(slots.tolist(), self.partition[slots].tolist(), strict=True):
            stay_id = self.ids[slot].encode()
            if slot in scorings:
                yield partition, (SCORING + stay_id, scorings[slot])
            if slot in bodies:
                yield partition, (BODY + stay_id, bodies[slot])
            yield partition, (HEAD + stay_id, heads[slot] + _encode_extras(self.extras[slot]))

    def encode_partition(self, partition: int) -> tuple[bytes, bytes]:
        """The changelog record of what a partition's stays share."""
        shared = PartitionState(
            ENCODING, self.next_offsets[partition], self.budgets[partition], self.topics.get(partition)
        )
        return PARTITION, msgspec.msgpack.encode(shared)

    @staticmethod
    def keys_of(stay_id: str) -> tuple[bytes, ...]:
        """The changelog keys of a stay: each needs a tombstone when it is removed."""
        return tuple(kind + stay_id.encode() for kind in (HEAD, BODY, SCORING))

    def forget_all(self) -> None:
        """Drop every stay."""
        for partition in {*self._slots, *self.next_offsets, *self.topics, *self.budgets}:
            self.forget(partition)

    def forget(self, partition: int) -> None:
        """Drop the stays of a partition, and what they share."""
        for slot in list(self._slots.get(partition, {}).values()):
            self.remove(slot)
        for shared in (self._slots, self.next_offsets, self.topics, self.budgets):
            shared.pop(partition, None)

    def load(self, partition: int, records: Mapping[bytes, bytes]) -> int:
        """Take over a partition's newest changelog records by key; returns how many cannot be used.

        If any, the caller forgets the partition: its state is made again from its readings.
        """
        lost = 0
        for key, value in records.items():
            kind = key[:1]
            if kind == PARTITION:
                lost += not self._load_shared(partition, value)
            elif kind == HEAD:
                body, scoring = records.get(BODY + key[1:]), records.get(SCORING + key[1:])
                lost += not self._load_stay(partition, key, value, body, scoring)
        return lost

    def _load_shared(self, partition: int, record: bytes) -> bool:
        try:
            shared = msgspec.msgpack.decode(record, type=PartitionState)
        except msgspec.DecodeError:
            return False
        self.next_offsets[partition], self.budgets[partition] = shared.next_offset, shared.budget
        if shared.topic is not None:
            self.topics[partition] = shared.topic
        return shared.encoding == ENCODING

    def _load_stay(self, partition: int, key: bytes, head: bytes, body: bytes | None, scoring: bytes | None) -> bool:
        """Join what belongs together; False if it cannot be used."""
        layout = self.layout
        if not layout.owns(head, layout.head.itemsize + 1) or body is None or not layout.owns(body, layout.state_at):
            return False
        try:
            stay_id, extras = key[1:].decode(), _decode_extras(head[layout.head.itemsize :])
        except (UnicodeDecodeError, msgspec.DecodeError):
            return False
        row = np.frombuffer(head, layout.head, 1)
        # Another model's state may have another size: all before it is read, and the state primed again.
        stored = np.frombuffer(body[: layout.body.itemsize].ljust(layout.body.itemsize, b"\0"), layout.body, 1)
        if stored["step"][0] != row["closed_step"][0]:
            return False
        slot = self.find_or_add(partition, stay_id)
        self.extras[slot] = extras
        self.has_alerts[slot] = extras.has_alerts
        self.head[slot] = row[0]
        self.body[slot] = stored[0]
        if scoring is not None and layout.owns(scoring, layout.scoring.itemsize):
            self.scoring[slot] = np.frombuffer(scoring, layout.scoring, 1)[0]
        self._derive(slot)
        return True

    def _derive(self, slot: int) -> None:
        """Rebuild what is not stored: which of the last T steps hold a forecast signal."""
        layout, steps = self.layout, self.layout.manifest.context_steps
        window = self.body["window"][slot][:, layout.forecast_inputs]
        self.is_filled[slot] = (window != layout.missing).any(axis=1)
        closed, newest = int(self.head["closed_step"][slot]), int(self.head["newest"][slot]) // layout.step_us
        if closed != NEVER:  # the rows of steps that are open still hold what was there a window ago
            self.is_filled[slot, np.arange(closed + 1, newest + 1) % steps] = False
        for open_bin in self.head["bins"][slot]:
            if open_bin["step"] > self.head["closed_step"][slot]:
                self.is_filled[slot, open_bin["step"] % steps] = bool((open_bin["count"][layout.forecast] > 0).any())
        self.open_holds[slot] = False
