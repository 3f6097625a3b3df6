"""What must be equal between a worker that was disturbed and one that was not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from model.manifest import DEFAULT_ARTIFACT
from model.predictor import Predictor
from stream_worker.stays import BODY, HEAD, PARTITION, Layout
from tests.kafka_client import Topics, read_committed

# Batches of another size change the last bit of float32 sums, hence now and then the last digit of a published number.
LAST_DIGIT = 0.1 + 1e-9
SCORE_OF_LAST_DIGIT = 0.2  # a score is steep where the band is narrow
STATE_TOLERANCE = 0.02  # relative; float16 keeps three digits


def assert_same_outputs(servers: str, disturbed: Topics, undisturbed: Topics) -> Counter[str]:
    """Forecasts, alerts and dead letters are those of the undisturbed run, each once; returns how many of each."""
    counts: Counter[str] = Counter()
    ours, theirs = _outputs(servers, disturbed), _outputs(servers, undisturbed)
    for name in ("forecasts", "dead_letters"):
        assert not (twice := [key for key, found in ours[name].items() if len(found) > 1]), f"twice: {twice[:3]}"
        assert ours[name].keys() == theirs[name].keys(), f"{name} missing or too many"
        counts[name] = len(ours[name])
    for key, (forecast,) in ours["forecasts"].items():
        (reference,) = theirs["forecasts"][key]
        _assert_same_forecast(forecast, reference)
    chains = {key: [(a["revision"], a["state"]) for a in alerts] for key, alerts in ours["alerts"].items()}
    reference_chains = {key: [(a["revision"], a["state"]) for a in alerts] for key, alerts in theirs["alerts"].items()}
    assert chains == reference_chains
    counts["alerts"] = len(chains)
    return counts


def _outputs(servers: str, topics: Topics) -> dict[str, defaultdict[Any, list[dict[str, Any]]]]:
    found: dict[str, defaultdict[Any, list[dict[str, Any]]]] = {
        name: defaultdict(list) for name in ("forecasts", "alerts", "dead_letters")
    }
    for message in read_committed(servers, *topics.outputs):
        body = message.json()
        match body["schema"]:
            case "vitals.forecast.v1":
                found["forecasts"][body["forecast_id"]].append(body)
            case "vitals.dead-letter.v1":
                found["dead_letters"][tuple(body["source"].values())].append(body)
            case "vitals.alert.v1":
                found["alerts"][body["alert_id"]].append(body)
    return found


def _assert_same_forecast(forecast: dict[str, Any], reference: dict[str, Any]) -> None:
    for name in ("stay_id", "issued_at", "status", "source", "model"):
        assert forecast[name] == reference[name], f"{forecast['forecast_id']}: {name}"
    assert forecast["signals"].keys() == reference["signals"].keys()
    for name, signal in forecast["signals"].items():
        expected = reference["signals"][name]
        assert (signal["last"], signal["last_at"]) == (expected["last"], expected["last_at"])
        np.testing.assert_allclose(signal["quantiles"], expected["quantiles"], rtol=0, atol=LAST_DIGIT)
    assert forecast["anomalies"].keys() == reference["anomalies"].keys()
    for name, anomaly in forecast["anomalies"].items():
        assert abs(anomaly["score"] - reference["anomalies"][name]["score"]) <= SCORE_OF_LAST_DIGIT


def assert_same_state(servers: str, disturbed: Topics, undisturbed: Topics) -> int:
    """The recovered state is that of the undisturbed run; returns the number of stays."""
    layout = Layout.of(Predictor.load(DEFAULT_ARTIFACT).manifest)
    ours, theirs = newest_state(servers, disturbed), newest_state(servers, undisturbed)
    assert ours.keys() == theirs.keys()
    stays = 0
    for key, value in ours.items():
        kind = key[1][:1]
        if kind == PARTITION:
            assert value == theirs[key]
        elif kind == HEAD:
            stays += 1
            size = layout.head.itemsize
            assert_same_row(layout.head, value[:size], theirs[key][:size], about={"expected": 1})
            assert value[size:] == theirs[key][size:]
        elif kind == BODY:
            assert_same_row(
                layout.body, value, theirs[key], about={"state32": STATE_TOLERANCE, "state16": STATE_TOLERANCE}
            )
    return stays


def newest_state(servers: str, topics: Topics) -> dict[tuple[int, bytes], bytes]:
    """The changelog as compaction leaves it, by partition and key."""
    newest: dict[tuple[int, bytes], bytes] = {}
    for message in read_committed(servers, topics.changelog):
        key = message.partition, message.key or b""
        if message.value is None:
            newest.pop(key, None)
        else:
            newest[key] = message.value
    return newest


def assert_same_row(
    dtype: np.dtype[Any],
    ours: bytes,
    theirs: bytes,
    about: Mapping[str, float] = MappingProxyType({}),
    without: Collection[str] = (),
) -> None:
    """Two rows are equal: fields `about` within a tolerance, `without` some."""
    a, b = np.frombuffer(ours, dtype)[0], np.frombuffer(theirs, dtype)[0]
    for name in dtype.names or ():
        if name in without:
            continue
        if name in about:
            x, y = a[name].astype(np.float64), b[name].astype(np.float64)
            np.testing.assert_allclose(x, y, rtol=about[name], atol=about[name], err_msg=name)
        else:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
