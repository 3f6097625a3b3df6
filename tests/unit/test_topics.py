"""What makes a topic unusable, told from its description alone."""

from __future__ import annotations

import pytest

from stream_worker.settings import load_settings
from stream_worker.topics import FoundTopic, WantedTopic, problem_of, wanted_topics

FORECASTS = WantedTopic("vitals.forecasts", "delete")
STATE = WantedTopic("vitalcast-stays-changelog", "compact")


def test_the_topics_are_those_of_the_contract() -> None:
    wanted = wanted_topics(load_settings(app_id="icu-east"))
    assert [topic.name for topic in wanted if topic.arrival] == ["vitals.readings"]
    assert [(topic.name, topic.cleanup) for topic in wanted] == [
        ("vitals.readings", "delete"),
        ("vitals.forecasts", "delete"),
        ("vitals.alerts", "delete"),
        ("vitals.dead-letters", "delete"),
        ("icu-east-stays-changelog", "compact"),
    ]


@pytest.mark.parametrize(
    ("topic", "found", "problem"),
    [
        (FORECASTS, FoundTopic(4, 3, "delete", arrival=True), None),
        (FORECASTS, FoundTopic(8, 3, "delete", arrival=True), None),
        (
            FORECASTS,
            FoundTopic(4, 3, None, arrival=False),
            "this user may not read its configuration, and needs DescribeConfigs",
        ),
        (STATE, FoundTopic(4, 3, "compact", arrival=True), None),
        (FORECASTS, None, "does not exist, or this user may not describe it"),
        (FORECASTS, FoundTopic(3, 3, "delete", arrival=True), "has 3 partitions, fewer than the 4 of the readings"),
        (FORECASTS, FoundTopic(1, 3, "delete", arrival=True), "has 1 partition, fewer than the 4 of the readings"),
        (
            FORECASTS,
            FoundTopic(4, 3, "compact", arrival=True),
            "cleanup.policy is compact, must be delete: records would be lost",
        ),
        (
            STATE,
            FoundTopic(4, 3, "delete", arrival=True),
            "cleanup.policy is delete, must be compact: state would be lost",
        ),
        (
            STATE,
            FoundTopic(4, 3, "compact,delete", arrival=True),
            "cleanup.policy is compact,delete, must be compact: state would be lost",
        ),
    ],
)
def test_a_topic_is_usable_or_says_why_not(topic: WantedTopic, found: FoundTopic | None, problem: str | None) -> None:
    assert problem_of(topic, found, readings_partitions=4) == problem
