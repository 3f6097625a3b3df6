"""Writes the published JSON Schemas from the records: `python -m schemas.publish`.

A test keeps files and records equal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec

from schemas.alert import ALERT_V1, HEARTBEAT_V1, Alert, Heartbeat
from schemas.dead_letter import DEAD_LETTER_V1, DeadLetter
from schemas.forecast import FORECAST_V1, Forecast
from schemas.reading import READING_V1, STAY_EVENT_V1, Reading, StayEvent

FOLDER: Final = Path(__file__).parent / "json"
RECORDS: Final[dict[str, type[msgspec.Struct]]] = {
    READING_V1: Reading,
    STAY_EVENT_V1: StayEvent,
    FORECAST_V1: Forecast,
    ALERT_V1: Alert,
    HEARTBEAT_V1: Heartbeat,
    DEAD_LETTER_V1: DeadLetter,
}


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the record called `name`."""
    schema = msgspec.json.schema(RECORDS[name])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:vitalcast:{name}", **schema}


def path_of(name: str) -> Path:
    """Where the schema of the record called `name` is published."""
    return FOLDER / f"{name}.schema.json"


def main() -> None:
    """Write every schema."""
    FOLDER.mkdir(exist_ok=True)
    for name in RECORDS:
        path_of(name).write_text(json.dumps(json_schema(name), indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
