"""The fast decoder and the codec judge every record the same."""

from __future__ import annotations

import gc
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec
from schemas.signals import VITALS, VITALS_BY_NAME, Signal
from stream_worker.columns import Decoded, ReadingDecoder
from tests.fault.hostile import hostile
from tests.records import event, reading


class SlowDecoder(ReadingDecoder):
    """Sends every record through the codec."""

    def _is_taken_as_sent(self, reading: Any) -> bool:
        return False


USUAL = {"units": {"hr": "/min", "spo2": "%"}, "quality": {"hr": "good", "etco2": "good"}}
FAST, SLOW = ReadingDecoder(VITALS, 2000), SlowDecoder(VITALS, 2000)

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-1000, 1000),
    st.integers(-(2**80), 2**80),
    st.sampled_from([-999, -99.9, 0, 8388607, 20, 250, 97.95]),
)
odd = st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.lists(st.integers(), max_size=2))
names = st.sampled_from([*VITALS_BY_NAME, "etco2", "hr ", ""])
vitals = st.one_of(
    st.dictionaries(st.sampled_from(sorted(VITALS_BY_NAME)), numbers, max_size=6),
    st.dictionaries(names, st.one_of(numbers, odd), max_size=4),
    odd,
)
times = st.sampled_from(
    [
        "2026-11-22T10:15:30Z",
        "2026-11-22T10:15:30.123456+01:00",
        "2026-11-22T10:15:30",
        "2026-02-30T00:00:00Z",
        "1800-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "2026-11-22t10:15:30z",
        "yesterday",
        17,
        None,
    ]
)
optional: dict[str, Any] = {
    "schema": st.sampled_from(["vitals.reading.v1", "vitals.reading.v2", "vitals.stay-event.v1", None, 1]),
    "device_id": st.one_of(st.text(max_size=5), st.none(), st.just(7)),
    "care_unit": st.one_of(st.text(max_size=5), st.just("x" * 65)),
    "units": st.dictionaries(names, st.sampled_from(["kPa", "[degF]", "K", "/min", "furlong", None]), max_size=2),
    "quality": st.dictionaries(
        names, st.sampled_from(["good", "good", "questionable", "invalid", "?", None]), max_size=2
    ),
    "event": st.just("ended"),
    "at": times,
    "vendor": st.one_of(numbers, odd),
}
messages = st.fixed_dictionaries(
    {"stay_id": st.one_of(st.sampled_from(["s-1", "", "é", "x" * 129, 5]), st.text(max_size=4)), "observed_at": times},
    optional={"vitals": vitals, **optional},
)
plain = st.builds(
    lambda at, values: reading("s-1", at, values), st.integers(0, 600), st.dictionaries(names, numbers, max_size=6)
)
documents = st.one_of(
    messages.map(lambda m: json.dumps(m).encode()),
    messages.map(lambda m: json.dumps(m, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    plain,
    st.tuples(plain, st.integers(0, 200), st.binary(max_size=2)).map(lambda x: x[0][: x[1]] + x[2] + x[0][x[1] :]),
    st.binary(max_size=40),
    st.none(),
)


def verdict(decoded: Decoded) -> tuple[Any, ...]:
    """Everything a decoder says, comparable."""
    r = decoded.readings
    return (
        r.is_reading.tolist(),
        r.stay_ids,
        r.observed_us.tolist(),
        np.nan_to_num(r.values, nan=-1).tolist(),
        r.observed.tolist(),
        r.questionable.tolist(),
        r.implausible.tolist(),
        r.fingerprints.tolist(),
        r.care_units,
        decoded.events,
        [(row, error.reason, error.detail) for row, error in decoded.invalid],
        decoded.ignored,
    )


@given(st.lists(documents, min_size=1, max_size=4))
@settings(max_examples=400)
def test_the_fast_decoder_and_the_codec_agree(values: list[bytes | None]) -> None:
    assert verdict(FAST.decode(values)) == verdict(SLOW.decode(values))


def agrees_with_the_slow_way(text: str) -> bool:
    """Whether the codec's typed decoder took `text`, and then read of it what the slow way reads."""
    typed = codec._decode_typed(text)
    assert typed is None or typed == codec.decode_slowly(text)
    return typed is not None


@given(documents.filter(lambda data: data is not None and data.decode(errors="ignore").encode() == data))
@settings(max_examples=400)
def test_both_ways_of_the_codec_agree(data: bytes) -> None:
    agrees_with_the_slow_way(data.decode())


def test_both_ways_of_the_codec_agree_on_what_no_decent_sender_writes() -> None:
    texts = [data.decode() for _, data in hostile(5000) if data.isascii() and not codec.is_too_deep(data)]
    assert 0 < sum(map(agrees_with_the_slow_way, texts)) < len(texts)


@pytest.mark.parametrize(
    "more",
    [
        {"units": {"hr": "/min", "spo2": None}},
        {"quality": {"hr": "questionable"}},
        {},
        {"care_unit": "Süd"},
        {"observations": {"oxygen": "air", "vendor": [1, {"a": None}]}},
        {"vendor": {"any": ["thing", 1e300]}},
    ],
)
def test_what_senders_may_add_is_read_by_the_typed_decoder(more: dict[str, Any]) -> None:
    assert agrees_with_the_slow_way(reading("s", 0, {"hr": 80, "spo2": None, "etco2": 5}, **more).decode())


@pytest.mark.parametrize("more", [{}, {"care_unit": "Süd"}, {"care_unit": "\U0001f3e5"}, {"device_id": "Ü-3"}, USUAL])
def test_plain_readings_take_the_fast_way(more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sent = json.loads(reading("s", 0, {"hr": 80, "spo2": None}, **more))
    texts = [json.dumps(sent, ensure_ascii=is_ascii).encode() for is_ascii in (False, True)]
    expected = verdict(SLOW.decode(texts))
    monkeypatch.delattr(codec, "decode")
    assert verdict(FAST.decode(texts)) == expected


@given(st.lists(documents, min_size=1, max_size=4))
@settings(max_examples=100)
def test_every_record_is_a_reading_an_event_or_invalid(values: list[bytes | None]) -> None:
    decoded = FAST.decode(values)
    others = sorted([row for row, _ in (*decoded.events, *decoded.invalid)])
    assert np.flatnonzero(~decoded.readings.is_reading).tolist() == others
    assert not decoded.readings.observed[others].any()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 30_000, "too_large"),
        (reading("s", 0).ljust(2000), None),
        (reading("s", 0).ljust(2001), "too_large"),
        (b"[" * 1_000, "malformed"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "malformed"),
        (b'{"stay_id":"\\ud800","observed_at":"2026-11-22T10:15:30Z","vitals":{"hr":80}}', "malformed"),
        (b'{"stay_id":"\\uDFFF","observed_at":"2026-11-22T10:15:30Z","vitals":{"hr":80}}', "malformed"),
        (reading("s", 0)[:-1] + b',"note":"\xff"}', "malformed"),
        (reading("s", 0, note='"' + "[" * 200), None),
        (reading("s", 0, note="\\")[:-1] + b',"deep":' + b"[" * 200 + b"]" * 200 + b"}", "malformed"),
        (reading("s", 0)[:-1] + b',"deep":' + b"[" * 127 + b"]" * 127 + b"}", None),
        (reading("s", 0)[:-1] + b',"deep":' + b"[" * 128 + b"]" * 128 + b"}", "malformed"),
        (reading("s", 0).replace(b"80", b"1" * 300), None),
        (reading("s", 0).replace(b"80", b"1e999"), None),
        (event("s", 0, "limits"), "schema"),
        (event("s", 0, "limits", limits={}), "schema"),
        (event("s", 0, "settings"), "schema"),
        (event("s", 0, "limits", limits={"hr": {"low": 80.0, "high": 80.0}}), "schema"),
    ],
)
def test_hostile_text_has_one_verdict_whichever_way_it_takes(text: bytes, reason: str | None) -> None:
    for decoder in (FAST, SLOW):
        decoded = decoder.decode([text])
        assert [error.reason for _, error in decoded.invalid] == ([reason] if reason else [])


def test_a_value_that_means_none_elsewhere_is_converted_where_its_unit_makes_it_possible() -> None:
    cold = Signal(name="outside", unit="Cel", low=-50, high=50)
    decoder = ReadingDecoder([*VITALS, cold], 2000)
    sent = reading("s", 0, {"outside": 0, "temp": 0}, units={"outside": "[degF]", "temp": "[degF]"})
    decoded = decoder.decode([sent])
    assert decoded.readings.values[0, -1] == pytest.approx(-160 / 9)
    assert decoded.ignored == {("temp", "sentinel"): 1}


def test_a_signal_may_have_any_name() -> None:
    decoder = ReadingDecoder([*VITALS, Signal(name="my value", unit="1", low=0, high=9)], 2000)
    assert decoder.decode([reading("s", 0, {"my value": 3})]).readings.values[0, -1] == 3


@pytest.mark.parametrize("more", [{"units": {"hr": ""}}, {"quality": {"hr": ""}}, {"quality": {"hr": "valid"}}])
def test_an_unknown_word_for_unit_or_quality_means_no_value(more: dict[str, Any]) -> None:
    decoded = FAST.decode([reading("s", 0, {"hr": 80, "spo2": 97}, **more)])
    assert decoded.readings.observed.sum() == 1


def test_invalid_records_keep_nothing_of_their_chunk_alive() -> None:
    gc.collect()
    gc.disable()
    try:
        decoded = FAST.decode([b"{not json", b'{"stay_id": 7}', reading("s", 0)])
        assert len(decoded.invalid) == 2
        del decoded
        assert gc.collect() == 0  # no cycles: reference counts have freed all of it
    finally:
        gc.enable()
