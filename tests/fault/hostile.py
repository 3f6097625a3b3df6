"""Records that no decent sender writes, the same for the same seed. None of them is of a stay of `tests.patients`."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

from tests.patients import START, reading

_STAYS: Final = 50
_ODD_VALUES: Final[tuple[Any, ...]] = (
    None, True, "88", "", [], {}, [[88]], {"value": 88}, -999, 8388607, 0, -0.0, 1e308, -1e308, 5e-324, 10**30, 2**63,
)  # fmt: skip
_ODD_NUMBERS: Final = ("1e999", "-1e999", "NaN", "-Infinity", "9" * 5000, "0x58", "088", "1.", "--1", "1e-400")
_ODD_STRINGS: Final = ("", "x" * 129, "\u0000", "\u202e", "\U0001f480", "é" * 128, "../../etc", "'; --", "\ud800", "{}")
_ODD_TIMES: Final[tuple[Any, ...]] = (
    "", "now", "2026-01-05", "2026-01-05T08:00:00", "2026-13-45T99:99:99Z", "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00", "2026-01-05T08:00:00.123456789123Z", "2026-01-05T08:00:00+99:99", 0, None, [],
    "2126-01-05T08:00:00Z", "1900-01-01T00:00:00Z",
)  # fmt: skip


def hostile(count: int, seed: int = 7) -> Iterator[tuple[str | bytes, bytes]]:
    """(key, value) of `count` records, all kinds in turn by chance."""
    chance = random.Random(seed)
    made = 0
    while made < count:
        value = chance.choice(_KINDS)(chance)
        if b"stay-1-" not in value:  # it could be taken for a good one
            yield chance.randbytes(chance.randrange(20)), value
            made += 1


def _valid(chance: random.Random) -> dict[str, Any]:
    name = f"x-{chance.randrange(_STAYS)}"
    at = START + timedelta(seconds=chance.randrange(86_400))
    return reading(name, at, {"hr": 80.0, "resp": 15, "spo2": 97, "abp_sys": 120, "abp_dia": 60, "abp_mean": 80})


def _text(message: Any) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _noise(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(300))


def _mutated(chance: random.Random) -> bytes:
    data = bytearray(_text(_valid(chance)))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at : at + chance.randrange(1, 12)]
            case 2:
                data[at:at] = data[chance.randrange(len(data)) :][:20]
            case _:
                data[at:at] = chance.choice((b'"', b"{", b"}", b"[", b",", b"\\", b"\x00", b"\xff", b"\xed\xa0\x80"))
        data = data or bytearray(b" ")
    return bytes(data)


def _nested(chance: random.Random) -> bytes:
    depth = chance.choice((100, 129, 1000, 20_000))
    opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'{"vitals":', b"}")))
    return opening * depth + b"1" + closing * depth


def _odd_number(chance: random.Random) -> bytes:
    return _text(_valid(chance)).replace(b"80.0", chance.choice(_ODD_NUMBERS).encode())


def _odd_types(chance: random.Random) -> bytes:
    message = _valid(chance)
    for _ in range(chance.randrange(1, 4)):
        vitals = message.get("vitals")
        where = chance.choice((message, vitals)) if isinstance(vitals, dict) and vitals else message
        odd: Any = chance.choice((_ODD_VALUES, _ODD_STRINGS, _ODD_TIMES))
        more = ("hr", "units", "quality", "device_id", "care_unit", "observations", "unknown")
        where[chance.choice((*where, *more))] = copy.deepcopy(chance.choice(odd))
    return _text(message)


def _odd_time(chance: random.Random) -> bytes:
    return _text({**_valid(chance), "observed_at": chance.choice(_ODD_TIMES)})


def _odd_name(chance: random.Random) -> bytes:
    return _text({**_valid(chance), chance.choice(("stay_id", "device_id", "care_unit")): chance.choice(_ODD_STRINGS)})


def _doubled_keys(chance: random.Random) -> bytes:
    text = _text(_valid(chance))
    return b'{"stay_id": 7, "vitals": {"hr": "no"}, "vitals": {}, ' + text[1:-1] + b', "vitals": {"hr": 81, "hr": 82}}'


def _event(chance: random.Random) -> bytes:
    limit = {chance.choice(("low", "high", "medium")): chance.choice((*_ODD_VALUES, 0))}
    message = {
        "schema": chance.choice(("vitals.stay-event.v1", "vitals.stay-event.v9", "vitals.reading.v2", 7)),
        "stay_id": f"x-{chance.randrange(_STAYS)}",
        "at": chance.choice((*_ODD_TIMES, "2026-01-05T09:00:00Z")),
        "event": chance.choice(("ended", "limits", "settings", "deleted", None)),
        "limits": chance.choice(({"hr": limit}, {"nonsense": limit}, {}, None, [limit])),
        "spo2_scale": chance.choice((1, 2, 3, "2", None)),
    }
    return _text(message).replace(b"1e+308", chance.choice((b"1e+308", b"1e999")))


def _large(chance: random.Random) -> bytes:
    return _text({**_valid(chance), "note": "x" * chance.choice((60_000, 65_300, 70_000, 200_000))})


def _valid_but_late_or_twice(chance: random.Random) -> bytes:
    return _text(_valid(chance))


_KINDS: Final[tuple[Callable[[random.Random], bytes], ...]] = (
    *(_noise, _mutated, _odd_types, _odd_number, _odd_time, _odd_name, _doubled_keys, _event) * 4,
    *(_mutated, _valid_but_late_or_twice) * 4,
    _nested,
    _large,
)
