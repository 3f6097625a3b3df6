"""The wire contract: published JSON Schemas, records, old messages and the examples in the documents say the same."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from schemas.codec import decode, decode_output, encode
from schemas.publish import FOLDER, RECORDS, json_schema, path_of

MESSAGES = Path(__file__).parent / "messages"
ROOT = Path(__file__).parents[2]
INPUTS = ("vitals.reading.v1", "vitals.stay-event.v1")


def published(name: str) -> Draft202012Validator:
    """The published schema called `name`, as a validator that is not ours."""
    schema = json.loads(path_of(name).read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def old_messages() -> list[Any]:
    """Every message of the contract's history, with its schema's name."""
    found = []
    for file in sorted(MESSAGES.glob("*.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            name = file.name.removesuffix(".jsonl")
            found.append(pytest.param(name, line, id=f"{name}-{number}"))
    return found


def examples() -> list[Any]:
    """Every JSON example of a message in the documents."""
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        blocks = re.findall(r"^```json\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for number, block in enumerate(blocks, 1):
            found.append(pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}"))
    return found


def same_instants(message: Any) -> Any:
    """The message with its times as instants and its numbers as floats, for comparison."""
    if isinstance(message, dict):
        return {key: same_instants(value) for key, value in message.items()}
    if isinstance(message, list):
        return [same_instants(value) for value in message]
    if isinstance(message, str) and re.match(r"\d{4}-\d\d-\d\dT", message):
        return datetime.fromisoformat(message)
    return message


@pytest.mark.parametrize("name", RECORDS)
def test_published_schema_is_the_one_of_the_record(name: str) -> None:
    assert json.loads(path_of(name).read_text(encoding="utf-8")) == json_schema(name), "run python -m schemas.publish"


@pytest.mark.parametrize("name", RECORDS)
def test_published_schema_says_what_each_field_means(name: str) -> None:
    for record in json_schema(name)["$defs"].values():
        assert record["description"]
        silent = {field for field, schema in record["properties"].items() if "description" not in schema}
        assert silent <= {"schema"}  # its one value says it


def test_every_record_and_nothing_else_is_published() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {path_of(name).name for name in RECORDS}


def test_every_schema_has_old_messages() -> None:
    assert {file.name.removesuffix(".jsonl") for file in MESSAGES.glob("*.jsonl")} == set(RECORDS)


@pytest.mark.parametrize(("name", "line"), old_messages())
def test_old_message_still_fits_its_published_schema(name: str, line: str) -> None:
    published(name).validate(json.loads(line))


@pytest.mark.parametrize(("name", "line"), old_messages())
def test_old_message_still_decodes_and_keeps_what_it_says(name: str, line: str) -> None:
    data = line.encode()
    record = decode(data) if name in INPUTS else decode_output(data)
    assert type(record) is RECORDS[name]
    said = same_instants(json.loads(line))
    again = same_instants(json.loads(encode(record)))
    known = {field.encode_name for field in msgspec.structs.fields(RECORDS[name])}
    assert {key: again[key] for key in said if key in known} == {key: said[key] for key in said if key in known}


@pytest.mark.parametrize("block", examples())
def test_example_in_the_documents_fits_the_contract(block: str) -> None:
    message = json.loads(block)
    name = message.get("schema", "vitals.reading.v1")
    published(name).validate(message)
    data = block.encode()
    assert decode(data) if name in INPUTS else decode_output(data)


@pytest.mark.parametrize(
    "data",
    [b"{not JSON", b'{"schema": "\xff"}', b'{"schema":' * 100_000, b"[" * 100_000, b'{"schema": "vitals.alert.v1"}'],
)
def test_what_is_no_output_is_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_output(data)
