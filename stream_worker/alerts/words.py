"""Alerts in words: a sentence for people, from a message key and parameters that any language can be made from.

A translation is another `SENTENCES`, `NAMES` and so on; the parameters are all it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from schemas.signals import VITALS_BY_NAME
from stream_worker.alerts.life import Transition
from stream_worker.alerts.news2 import EMERGENCY, RED
from stream_worker.times import SECOND_US

SENTENCES: Final = {
    "limit.low": "{name} below {limit:g}{unit} ({last:g})",
    "limit.high": "{name} above {limit:g}{unit} ({last:g})",
    # Open, but the value is inside the limit, to which it came back or which moved: not by the hysteresis, or in doubt.
    "limit.low.inside": "{name} not yet reliably above {limit:g}{unit} ({last:g})",
    "limit.high.inside": "{name} not yet reliably below {limit:g}{unit} ({last:g})",
    "forecast_limit.low": "{name} may fall below {limit:g}{unit} within {horizon_min:g} min ({percent:.0f} % likely)",
    "forecast_limit.high": "{name} may rise above {limit:g}{unit} within {horizon_min:g} min ({percent:.0f} % likely)",
    "anomaly": "{name} has not been as expected for {minutes:.0f} min",
    "technical.sensor_off": "{name}: no values for {minutes:.0f} min; is the sensor off?",
    "technical.flatline": "{name} has not moved for {minutes:.0f} min; its other alerts are held back",
    "technical.implausible": "{name}: impossible values for {minutes:.0f} min; its other alerts are held back",
    "technical.disagreement": "{name} and pulse have disagreed for {minutes:.0f} min",
    "technical.no_data": "No readings for {minutes:.0f} min",
    "news2": "NEWS2 is at least {score}: {response}{red}{missing}",
    "cleared": "{name}: {alert} {reason}",
}
NAMES: Final = {name: signal.title for name, signal in VITALS_BY_NAME.items()}
# What is cleared, and why.
ALERTS: Final = {
    "limit": "limit alert",
    "forecast_limit": "forecast alert",
    "anomaly": "anomaly",
    "technical.sensor_off": "sensor-off alert",
    "technical.flatline": "flat-line alert",
    "technical.implausible": "implausible-value alert",
    "technical.disagreement": "disagreement alert",
    "technical.no_data": "no-data alert",
    "news2": "NEWS2 alert",
}
REASONS: Final = {
    "recovered": "has ended",
    "data_lost": "can no longer be told",
    "stay_ended": "ended with the stay",
    "superseded": "has come true",
    "renewed": "is raised anew",
}
# What the chart asks for (Royal College of Physicians 2017): from EMERGENCY points on, and below.
RESPONSES: Final = ("emergency response", "urgent review")
INPUTS: Final = {
    "spo2": "oxygen saturation",
    "resp": "respiration",
    "systolic": "blood pressure",
    "temp": "temperature",
}


def message_of(transition: Transition) -> tuple[str, str, dict[str, Any]]:
    """(sentence, message key, parameters) of a revision."""
    key = transition.key
    message_key = ".".join(part for part in (key.kind, key.side or key.cause) if part)
    params: dict[str, Any] = {
        "signal": key.signal,
        "side": key.side,
        "cause": key.cause,
        "priority": transition.priority,
        # A timer may have raised it before an older reading came that clears it.
        "minutes": max(0.0, round((transition.at_us - transition.since_us) / SECOND_US / 60, 1)),
        **transition.evidence,
    }
    if transition.state == "cleared":
        is_renewed = transition.superseded_by is not None and transition.superseded_by.key == key
        params["reason"] = "renewed" if is_renewed else transition.clear_reason
        message_key += ".cleared"
    return sentence(message_key, params), message_key, params


def sentence(message_key: str, params: Mapping[str, Any]) -> str:
    """The English sentence."""
    signal = VITALS_BY_NAME.get(params["signal"] or "")
    missing = [INPUTS.get(name, name) for name in params.get("missing", ())]
    red = [INPUTS.get(name, name) for name, points in params.get("points", {}).items() if points == RED]
    words = {
        "name": NAMES.get(params["signal"], params["signal"] or "Stay"),
        "unit": "" if signal is None else f" {signal.written_unit}".replace(" /", "/"),  # 65 mmHg, but 50/min
        "horizon_min": params.get("horizon_s", 0) / 60,
        "percent": 100 * params.get("probability", 0.0),
        "response": RESPONSES[params.get("score", 0) < EMERGENCY],
        "red": f"; {RED} points for {', '.join(red)}" if red else "",
        "missing": f" (not known: {', '.join(missing)})" if missing else "",
    }
    alert, is_cleared, _ = message_key.partition(".cleared")
    if is_cleared:
        words["alert"] = ALERTS.get(alert) or ALERTS[alert.partition(".")[0]]
        words["reason"] = REASONS[params["reason"]]
        return SENTENCES["cleared"].format(**words)
    if (alert == "limit.low" and params["last"] >= params["limit"]) or (
        alert == "limit.high" and params["last"] <= params["limit"]
    ):
        alert += ".inside"
    return SENTENCES[alert].format(**{**params, **words})
