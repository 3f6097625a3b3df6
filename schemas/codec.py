"""Bytes <-> records. Reading is strict about the contract and says which part of it a record breaks."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

import msgspec

from schemas.alert import ALERT_V1, HEARTBEAT_V1, Alert, Heartbeat
from schemas.dead_letter import DEAD_LETTER_V1, DeadLetter, Reason
from schemas.forecast import FORECAST_V1, Forecast
from schemas.reading import READING_V1, STAY_EVENT_V1, Reading, StayEvent

# Deeper nesting than any reading needs; well below the recursion limit of the parsers, so that the verdict is ours.
MAX_DEPTH: Final = 128
MAX_DIGITS: Final = 400  # of an integer: more cannot be a float, and Python takes quadratic time to read them
# Times that every client on the way can represent in UTC, whatever the offset they were written with.
YEARS: Final = range(1900, 9999)


class InvalidReading(Exception):
    """A record that is no reading: the contract's reason, and a detail that quotes nothing of the record."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode(data: bytes | None, max_bytes: int = 65_536) -> Reading | StayEvent:
    """The reading or stay event in `data`.

    Raises: InvalidReading with the first reason that fits: too_large, malformed or schema. Nothing else.
    """
    if data is None:
        raise InvalidReading("malformed", "the record has no value")
    if len(data) > max_bytes:
        raise InvalidReading("too_large", f"the record is larger than {max_bytes} bytes")
    text = _to_text(data)
    return _decode_typed(text) or decode_slowly(text)


def is_too_deep(data: bytes) -> bool:
    """Whether brackets nest deeper than MAX_DEPTH. Counting openers first spares nearly every record the walk."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    depth, in_string, escaped = 0, False, False
    for byte in data:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def _to_text(data: bytes) -> str:
    if is_too_deep(data):
        raise InvalidReading("malformed", f"nested deeper than {MAX_DEPTH} levels")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidReading("malformed", "not UTF-8") from error


def _decode_typed(text: str) -> Reading | None:
    """The reading in `text`, for a sixth of the time; None if a closer look is needed."""
    if _may_hold_surrogates(text):
        return None
    try:
        reading = _READING.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return reading if reading.observed_at.year in YEARS else None


def decode_slowly(text: str) -> Reading | StayEvent:
    """The reading or stay event in `text`, step by step, so that each fault has its name.

    Raises: InvalidReading.
    """
    return _to_record(_parse(text))


def _parse(text: str) -> dict[str, object]:
    """The JSON object in `text`; numbers too large for a float become infinite, which no signal's range contains."""
    try:
        parsed = _JSON.decode(text)
    except (ValueError, RecursionError) as error:
        raise InvalidReading("malformed", "not JSON (RFC 8259)") from error
    if not isinstance(parsed, dict):
        raise InvalidReading("malformed", "not a JSON object")
    if _may_hold_surrogates(text) and not _is_unicode(parsed):
        raise InvalidReading("malformed", "half of a surrogate pair is not Unicode")
    return parsed


def _may_hold_surrogates(text: str) -> bool:
    return "\\ud" in text.lower()


def _is_unicode(parsed: object) -> bool:
    """Whether every string can be written as UTF-8: JSON escapes can name halves of surrogate pairs."""
    try:
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _parse_int(digits: str) -> int | float:
    if len(digits) <= MAX_DIGITS:
        return int(digits)
    return -math.inf if digits.startswith("-") else math.inf


_JSON: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_parse_int)


def _to_record(parsed: dict[str, object]) -> Reading | StayEvent:
    name = parsed.get("schema")
    if name is None:
        parsed = {**parsed, "schema": READING_V1}
    elif not isinstance(name, str):
        raise InvalidReading("schema", "the schema name is not a string")
    elif name not in (READING_V1, STAY_EVENT_V1):
        raise InvalidReading("schema", "unknown schema name or major version")
    record_type: type[Reading | StayEvent] = StayEvent if name == STAY_EVENT_V1 else Reading
    try:
        record = msgspec.convert(parsed, record_type, str_keys=True)
    except msgspec.ValidationError as error:
        raise InvalidReading("schema", f"does not fit its schema{_where(error)}") from error
    except OverflowError as error:
        raise InvalidReading("schema", "does not fit its schema") from error
    if (record.at if isinstance(record, StayEvent) else record.observed_at).year not in YEARS:
        raise InvalidReading("schema", "a time outside the years 1900 to 9998")
    if isinstance(record, StayEvent):
        _check_event(record)
    return record


def _where(error: msgspec.ValidationError) -> str:
    """The path to the offending field as msgspec reports it; keys that a sender chose appear only as `[...]`."""
    match = re.search(r"at `\$\.?([a-z0-9_.\[\]]*)`$", str(error))
    return f" at {match[1]}" if match and match[1] else ""


def _check_event(event: StayEvent) -> None:
    if event.event == "limits":
        if not event.limits:
            raise InvalidReading("schema", "a limits event without limits")
        for limits in event.limits.values():
            if isinstance(limits.low, float) and isinstance(limits.high, float) and limits.low >= limits.high:
                raise InvalidReading("schema", "a low limit that is not below the high one")
    if event.event == "settings" and event.spo2_scale is None:
        raise InvalidReading("schema", "a settings event without a setting")


_READING: Final = msgspec.json.Decoder(Reading)
encode = msgspec.json.Encoder().encode


class _Envelope(msgspec.Struct):
    schema: str = ""


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_OUTPUTS: dict[str, msgspec.json.Decoder[Any]] = {
    FORECAST_V1: msgspec.json.Decoder(Forecast),
    ALERT_V1: msgspec.json.Decoder(Alert),
    HEARTBEAT_V1: msgspec.json.Decoder(Heartbeat),
    DEAD_LETTER_V1: msgspec.json.Decoder(DeadLetter),
}


def decode_output(data: bytes) -> Forecast | Alert | Heartbeat | DeadLetter | None:
    """The record that a worker published, or None for a schema that this version does not know.

    Raises: msgspec.DecodeError if it breaks its schema, or is no JSON.
    """
    try:
        decoder = _OUTPUTS.get(_ENVELOPE.decode(data).schema)
        return None if decoder is None else decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:  # msgspec lets them through
        raise msgspec.DecodeError("not readable") from error
