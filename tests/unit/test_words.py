"""What alerts say: one line, whole sentences, nothing that the parameters do not hold."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from schemas.alert import Cause, ClearReason
from stream_worker.alerts.entries import AlertKey
from stream_worker.alerts.life import Transition
from stream_worker.alerts.words import REASONS, message_of, sentence

FORECAST = {"limit": 65, "horizon_s": 3600, "probability": 0.41, "last": 71.5}
SCORE = {"score": 6, "upper": 12, "points": {"resp": 3}, "missing": ["consciousness", "temp"], "threshold": 5}
CASES = [
    (AlertKey("limit", "abp_mean", "low"), {"limit": 65, "last": 61.5}),
    (AlertKey("limit", "temp", "high"), {"limit": 39.5, "last": 40.0}),
    (AlertKey("limit", "abp_mean", "low"), {"limit": 65, "last": 65}),
    (AlertKey("limit", "hr", "high"), {"limit": 130, "last": 128.5}),
    (AlertKey("forecast_limit", "abp_mean", "low"), FORECAST),
    (AlertKey("forecast_limit", "resp", "high"), {**FORECAST, "limit": 30}),
    (AlertKey("anomaly", "hr"), {"score": 0.999, "last": 140.0}),
    *((AlertKey("technical", None if cause == "no_data" else "hr", None, cause), {}) for cause in get_args(Cause)),
    (AlertKey("news2"), SCORE),
    (AlertKey("news2"), {**SCORE, "score": 7, "missing": []}),
]
SAID = [
    "Mean arterial pressure below 65 mmHg (61.5)",
    "Temperature above 39.5 °C (40)",
    "Mean arterial pressure not yet reliably above 65 mmHg (65)",
    "Heart rate not yet reliably below 130/min (128.5)",
    "Mean arterial pressure may fall below 65 mmHg within 60 min (41 % likely)",
    "Respiratory rate may rise above 30/min within 60 min (41 % likely)",
    "Heart rate has not been as expected for 5 min",
    "Heart rate: no values for 5 min; is the sensor off?",
    "Heart rate has not moved for 5 min; its other alerts are held back",
    "Heart rate: impossible values for 5 min; its other alerts are held back",
    "Heart rate and pulse have disagreed for 5 min",
    "No readings for 5 min",
    "NEWS2 is at least 6: urgent review; 3 points for respiration (not known: consciousness, temperature)",
    "NEWS2 is at least 7: emergency response; 3 points for respiration",
]


def transition(key: AlertKey, evidence: dict[str, Any], reason: ClearReason | None = None) -> Transition:
    state = "raised" if reason is None else "cleared"
    return Transition(key, state, 0, "medium", 0, 300_000_000, 1, evidence, reason)  # type: ignore[arg-type]


@pytest.mark.parametrize(("case", "said"), list(zip(CASES, SAID, strict=True)))
def test_each_alert_has_its_sentence(case: tuple[AlertKey, dict[str, Any]], said: str) -> None:
    assert message_of(transition(case[0], case[1]))[0] == said


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reason", [None, *get_args(ClearReason)])
def test_key_and_parameters_are_all_that_a_sentence_needs(
    case: tuple[AlertKey, dict[str, Any]], reason: ClearReason | None
) -> None:
    text, message_key, params = message_of(transition(case[0], case[1], reason))
    assert sentence(message_key, json.loads(json.dumps(params))) == text
    assert "\n" not in text
    assert message_key.endswith(".cleared") == (reason is not None)
    assert reason is None or text.endswith(REASONS[reason])
