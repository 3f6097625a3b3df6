"""The forecast of one reading after another, in plain Python: for frameworks that hand over one reading at a time.

`stream_worker.pipeline` takes a thousand readings at once, as columns; for one alone these loops are cheaper. Same
rules, same model, same message, except for what the benchmark does not need: no units or quality marks, no stay events,
no dead letters, no alerts, no anomaly scores, no scoring of past forecasts. All of that favours whoever uses this.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from xxhash import xxh3_64_intdigest

from model.predictor import Predictor
from model.steps import NEVER_S, step_value
from schemas import codec
from schemas.forecast import Forecast, ModelReference, SignalForecast, Source
from schemas.reading import Reading
from schemas.signals import ARTERIAL_TRIPLE, is_arterial_triple_consistent, known_signals
from stream_worker.chain import in_quanta
from stream_worker.settings import Settings
from stream_worker.stays import REMEMBERED_READINGS, Layout
from stream_worker.times import SECOND_US, to_time, to_us

_decode_reading = msgspec.json.Decoder(Reading).decode
_encode = msgspec.msgpack.Encoder().encode

Quanta = NDArray[np.int64]


class Bin(msgspec.Struct, array_like=True, gc=False):
    """One signal in one open step; values in steps of its precision."""

    total: int
    low: int
    high: int
    count: int
    at_us: int


class OpenStep(msgspec.Struct, array_like=True):
    """The readings of a step that is not closed yet."""

    as_of_us: int
    bins: dict[str, Bin] = {}


class Head(msgspec.Struct, array_like=True):
    """What changes with every reading."""

    newest_us: int | None = None
    closed_step: int | None = None
    open_steps: dict[int, OpenStep] = {}
    last: dict[str, tuple[int, int]] = {}  # quanta, observed_at
    filled_steps: list[int] = []  # of the context, those with a forecast signal
    fingerprints: list[int] = []


class Body(msgspec.Struct, array_like=True):
    """What changes when a step closes."""

    state: bytes
    as_of_us: int | None = None
    has_started: bool = False
    at_us: dict[str, int] = {}
    window: list[list[int | None]] = []  # of closed steps, oldest first


_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_body = msgspec.msgpack.Decoder(Body).decode


class Stay:
    """One stay, decoded. `open_states` is what the model was at after open steps; never stored."""

    def __init__(self, head: Head, body: Body, state: Tensor) -> None:
        self.head = head
        self.body = body
        self.state = state  # after the last closed step
        self.open_states: dict[int, Tensor] = {}
        self.has_new_body = True

    def encode_head(self) -> bytes:
        """What to store after every reading."""
        return _encode(self.head)

    def encode_body(self) -> bytes:
        """What to store whenever `has_new_body`."""
        self.has_new_body = False
        return _encode(self.body)


class _Inputs(NamedTuple):
    """What the model is told of one step."""

    quanta: list[int | None]  # (I,) None where unobserved
    at_us: dict[str, int]
    as_of_us: int | None

    @property
    def is_empty(self) -> bool:
        return all(quanta is None for quanta in self.quanta)


class OneByOne:
    """Takes readings of single stays."""

    def __init__(self, settings: Settings, predictor: Predictor) -> None:
        manifest = self._manifest = predictor.manifest
        self._predictor = predictor
        self._settings = settings
        self._layout = Layout.of(manifest)
        self._signals = {signal.name: signal for signal in known_signals(manifest.inputs)}
        self._inputs = [(signal.name, signal.precision) for signal in manifest.inputs]
        self._precision = self._layout.precision[self._layout.forecast]
        self._per_unit = np.rint(1 / self._precision)
        self._grace_us = int(settings.grace_s * SECOND_US)
        self._stale_us = int(settings.stale_after_s * SECOND_US)
        self._reset_us = int(settings.reset_after_s * SECOND_US)
        self._limit_us = int(NEVER_S * SECOND_US)
        self._model = ModelReference(manifest.name, manifest.version, manifest.sha256[:12])

    # --- stays ---

    def new_stay(self) -> Stay:
        """A stay without readings."""
        state = self._predictor.initial_state(1)
        return Stay(Head(), Body(self._to_bytes(state)), state)

    def load(self, head: bytes, body: bytes) -> Stay:
        """A stay as it was stored."""
        stay = Stay(_decode_head(head), _decode_body(body), torch.empty(0))
        split = 4 * self._manifest.state_float32
        exact = np.frombuffer(stay.body.state[:split], np.float32)
        half = np.frombuffer(stay.body.state[split:], np.float16)
        stay.state = torch.from_numpy(np.concatenate([exact, half.astype(np.float32)])[None])
        stay.has_new_body = False
        return stay

    def _to_bytes(self, state: Tensor) -> bytes:
        values, split = state[0].numpy(), self._manifest.state_float32
        return values[:split].tobytes() + values[split:].astype(np.float16).tobytes()

    # --- readings ---

    def take(self, stay: Stay, value: bytes, partition: int, offset: int) -> bytes | None:
        """The forecast message that the reading `value` leaves; None if it is late, repeated or without values."""
        reading = _decode_reading(value)
        observed_us = to_us(reading.observed_at)
        values = self._usable(reading)
        fingerprint = xxh3_64_intdigest(value)
        if stay.head.newest_us is not None and observed_us - stay.head.newest_us > self._reset_us:
            fresh = self.new_stay()
            stay.head, stay.body, stay.state, stay.open_states = fresh.head, fresh.body, fresh.state, {}
            stay.has_new_body = True
        head, step_us = stay.head, self._layout.step_us
        newest_us = observed_us if head.newest_us is None else head.newest_us
        step = observed_us // step_us
        is_late = step <= (newest_us - self._grace_us) // step_us - 1
        if not values or is_late or fingerprint in head.fingerprints:
            return None
        head.newest_us = newest_us = max(newest_us, observed_us)
        newest_step = newest_us // step_us
        self._close_until(stay, (newest_us - self._grace_us) // step_us - 1)
        self._place(stay, step, observed_us, values)
        head.fingerprints = [*head.fingerprints[1 - REMEMBERED_READINGS :], fingerprint]
        quantiles = self._provisional(stay, newest_step)
        return self._message(head, reading.stay_id, newest_us, quantiles, partition, offset)

    def _usable(self, reading: Reading) -> dict[str, int]:
        """The plausible values in quanta."""
        usable = {}
        for name, value in reading.vitals.items():
            signal = self._signals.get(name)
            if signal is not None and value is not None and signal.low <= value <= signal.high:
                usable[name] = round(value / signal.precision)
        if all(name in usable for name in ARTERIAL_TRIPLE):
            triple = (reading.vitals[name] for name in ARTERIAL_TRIPLE)
            if not is_arterial_triple_consistent(*triple):
                for name in ARTERIAL_TRIPLE:
                    del usable[name]
        return usable

    def _place(self, stay: Stay, step: int, observed_us: int, values: dict[str, int]) -> None:
        head = stay.head
        open_step = head.open_steps.setdefault(step, OpenStep(observed_us))
        open_step.as_of_us = max(open_step.as_of_us, observed_us)
        for name, quanta in values.items():
            if name not in head.last or observed_us >= head.last[name][1]:
                head.last[name] = quanta, observed_us
            found = open_step.bins.get(name)
            if found is None:
                open_step.bins[name] = Bin(quanta, quanta, quanta, 1, observed_us)
                continue
            found.total += quanta
            found.count += 1
            found.low, found.high = min(found.low, quanta), max(found.high, quanta)
            found.at_us = max(found.at_us, observed_us)
        if step not in head.filled_steps and any(name in values for name in self._manifest.signals):
            oldest = max([step, *head.filled_steps]) - self._manifest.context_steps
            head.filled_steps = [*(filled for filled in head.filled_steps if filled > oldest), step]
        # What was computed from this step, and after it, no longer holds.
        stay.open_states = {known: state for known, state in stay.open_states.items() if known < step}

    # --- the model ---

    def _close_until(self, stay: Stay, last_closed: int) -> None:
        head, body = stay.head, stay.body
        if head.closed_step is None:
            head.closed_step = last_closed
        while head.closed_step < last_closed:
            step = head.closed_step + 1
            inputs = self._inputs_of(stay, step)
            stay.state = self._state_after(stay, step, inputs)
            stay.open_states.pop(step, None)
            head.open_steps.pop(step, None)
            head.closed_step = step
            body.has_started = body.has_started or not inputs.is_empty
            body.at_us = inputs.at_us
            body.as_of_us = inputs.as_of_us if body.has_started else None
            body.window = [*body.window[1 - self._manifest.context_steps :], inputs.quanta]
            body.state = self._to_bytes(stay.state)
            stay.has_new_body = True

    def _provisional(self, stay: Stay, newest_step: int) -> Quanta:
        """Quantiles (V, H, Q) as of the newest reading, through the open steps."""
        state, older = stay.state, newest_step - 1
        if older != stay.head.closed_step:
            state = stay.open_states[older] = self._state_after(stay, older, self._inputs_of(stay, older))
        quantiles, after = self._run(self._inputs_of(stay, newest_step), state)
        stay.open_states[newest_step] = after
        quanta: Quanta = in_quanta(quantiles.numpy(), self._layout)[0]
        return quanta

    def _state_after(self, stay: Stay, step: int, inputs: _Inputs) -> Tensor:
        """The state after the oldest open step. Before a stay's first value it is the initial one."""
        known = stay.open_states.get(step)
        if known is not None:
            return known
        if inputs.is_empty and not stay.body.has_started:
            return stay.state
        return self._run(inputs, stay.state)[1]

    def _inputs_of(self, stay: Stay, step: int) -> _Inputs:
        head, body = stay.head, stay.body
        own, older = head.open_steps.get(step), head.open_steps.get(step - 1)
        at_us, as_of_us = dict(body.at_us), body.as_of_us
        if older is not None:
            at_us |= {name: found.at_us for name, found in older.bins.items()}
            as_of_us = older.as_of_us
        if own is None:
            as_of_us = None if as_of_us is None else as_of_us + self._layout.step_us
            return _Inputs([None] * len(self._inputs), at_us, as_of_us)
        at_us |= {name: found.at_us for name, found in own.bins.items()}
        values = dict(zip(own.bins, _values_of(list(own.bins.values())), strict=True))
        return _Inputs([values.get(name) for name, _ in self._inputs], at_us, own.as_of_us)

    def _run(self, inputs: _Inputs, state: Tensor) -> tuple[Tensor, Tensor]:
        """Quantiles (1, V, H, Q), and the state after, rounded as it is when stored."""
        x, observed, elapsed = [], [], []
        for (name, precision), quanta in zip(self._inputs, inputs.quanta, strict=True):
            x.append(0.0 if quanta is None else quanta * precision)
            observed.append(quanta is not None)
            at_us = inputs.at_us.get(name)
            ago_us = self._limit_us if at_us is None or inputs.as_of_us is None else inputs.as_of_us - at_us
            elapsed.append(min(max(ago_us, 0), self._limit_us) / SECOND_US)
        quantiles, after = self._predictor.step(
            torch.tensor([x]), torch.tensor([observed]), torch.tensor([elapsed]), state
        )
        return quantiles, self._predictor.round_state(after)

    # --- what is published ---

    def _message(
        self,
        head: Head,
        stay_id: str,
        newest_us: int,
        quanta: Quanta,
        partition: int,
        offset: int,
    ) -> bytes:
        manifest, step_us = self._manifest, self._layout.step_us
        newest_step = newest_us // step_us
        first_us = (newest_step - manifest.context_steps + 1) * step_us
        quantiles = (quanta / self._per_unit[:, None, None]).tolist()
        per_unit = self._per_unit.tolist()
        last_us = max((head.last[name][1] for name in manifest.signals if name in head.last), default=0)
        filled = sum(step > newest_step - manifest.context_steps for step in head.filled_steps)
        is_warm = filled >= self._settings.min_observed_steps
        return codec.encode(
            Forecast(
                forecast_id=f"{self._settings.readings_topic}-{partition}-{offset}",
                stay_id=stay_id,
                issued_at=to_time(newest_us),
                produced_at=datetime.now(UTC),
                status="stale" if last_us < newest_us - self._stale_us else "ok" if is_warm else "warming_up",
                model=self._model,
                step_s=manifest.step_s,
                horizons_s=list(manifest.horizons_s),
                quantile_levels=list(manifest.quantile_levels),
                signals={
                    name: SignalForecast(head.last[name][0] / per_unit[v], to_time(at_us), quantiles[v])
                    for v, name in enumerate(manifest.signals)
                    if (at_us := head.last.get(name, (0, -1))[1]) >= first_us
                },
                anomalies={},
                source=Source(self._settings.readings_topic, partition, offset),
            )
        )


def _values_of(bins: Sequence[Bin]) -> list[int]:
    """The value of each signal in a step, in quanta."""
    columns = np.array([(found.total, found.low, found.high, found.count) for found in bins], np.int64).reshape(-1, 4)
    values: list[int] = step_value(*columns.T).tolist()
    return values


class Remembered:
    """Stays by id, decoded once: good for as long as the framework's state holds the very bytes that were stored."""

    def __init__(self, core: OneByOne) -> None:
        self._core = core
        self._stays: dict[bytes, tuple[bytes, Stay]] = {}

    def find(self, stay_id: bytes, head: bytes | None, body: bytes | None) -> Stay:
        """The stay that `head` and `body` describe."""
        if head is None or body is None:
            return self._core.new_stay()
        known = self._stays.get(stay_id)
        return known[1] if known is not None and known[0] == head else self._core.load(head, body)

    def keep(self, stay_id: bytes, head: bytes, stay: Stay) -> None:
        """Remember the stay as `head` now describes it."""
        self._stays[stay_id] = head, stay
