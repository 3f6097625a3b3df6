"""Alert limits from settings: a care unit says what is other there, and keeps the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.manifest import ArtifactError
from schemas.reading import LimitRange
from stream_worker.limits import DEFAULT_LIMITS, AlertLimits, SignalLimits, completed, limits_of
from stream_worker.settings import SettingsError, load_settings

PRESSURE = DEFAULT_LIMITS.root["abp_mean"]


def loaded(folder: Path, toml: str) -> dict[str, object]:
    """The limits of a settings file, plain."""
    path = folder / "vitalcast.toml"
    path.write_text(toml, encoding="utf-8")
    return {unit: limits.root for unit, limits in load_settings(path).limits.items()}


def test_what_a_unit_does_not_say_is_as_by_default(tmp_path: Path) -> None:
    limits = loaded(tmp_path, "[limits.default.resp]\nhigh = 35\n[limits.icu-3.abp_mean]\nlow = 60\n")
    resp = DEFAULT_LIMITS.root["resp"].model_copy(update={"high": 35.0})
    assert limits["default"] == {**DEFAULT_LIMITS.root, "resp": resp}
    assert limits["icu-3"] == {**DEFAULT_LIMITS.root, "resp": resp, "abp_mean": PRESSURE.model_copy(update={"low": 60})}


def test_a_severe_limit_that_is_not_said_stays_outside_the_mild_one(tmp_path: Path) -> None:
    limits = loaded(tmp_path, "[limits.default.abp_mean]\nlow = 45\n")
    assert limits["default"] == {
        **DEFAULT_LIMITS.root,
        "abp_mean": PRESSURE.model_copy(update={"low": 45, "severe_low": 45}),
    }


def test_a_limit_is_lifted_by_a_word(tmp_path: Path) -> None:
    limits = loaded(tmp_path, '[limits.default.abp_sys]\nhigh = "none"\n')
    lifted = {"high": None, "severe_high": None}
    assert limits["default"] == {
        **DEFAULT_LIMITS.root,
        "abp_sys": DEFAULT_LIMITS.root["abp_sys"].model_copy(update=lifted),
    }


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("[limits.icu-3.abp_mean]\nsevere_low = 70", r"limits: icu-3\.abp_mean: severe_low <= low"),
        ("[limits.default.abp_mean]\nhigh = 60", r"limits: default\.abp_mean: severe_low <= low"),
        ("[limits.icu-3.abp_mean]\nsevere_low = 70\nlow = 60", "severe_low <= low"),
        ("[limits.icu-3.nibp_mean]\nsevere_low = 50", r"limits: icu-3\.nibp_mean: severe_low needs low"),
        ("[limits.icu-3.mood]\nlow = 1", "neither vital signs nor inputs of the model: mood"),
        ("[limits.default.hr]\nhigh = 300", r"limits\.default: hr\.high: must be from 20 to 250"),
        ("[limits.icu-3.temp]\nsevere_high = 104.0", r"temp\.severe_high: must be from 25 to 45"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(tmp_path: Path, said: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        loaded(tmp_path, said)


def test_a_model_that_cannot_be_read_is_no_wrong_setting_where_limits_need_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="limits of what is no vital sign: nowhere"):
        loaded(tmp_path, "model = 'nowhere'\n[limits.icu-3.mood]\nlow = 1")


def test_a_stay_has_its_units_limits_and_then_its_own() -> None:
    units = completed({"icu-3": AlertLimits({"hr": SignalLimits(high=140)})})
    assert limits_of(units, None, {})["hr"].high == 130
    assert limits_of(units, "other", {})["hr"].high == 130
    assert limits_of(units, "icu-3", {})["hr"].high == 140
    own = limits_of(units, "icu-3", {"hr": LimitRange(high=160.0), "nibp_sys": LimitRange(low=80.0)})
    assert (own["hr"].high, own["hr"].severe_high, own["hr"].low) == (160, 160, 50)
    assert own["nibp_sys"].low == 80
