"""`vitalcast topics create|check`: what they print, and their exit code."""

from __future__ import annotations

import sys

from stream_worker.topics import TopicsResult


def report(result: TopicsResult) -> int:
    """Print the topics, a line each in any terminal or log. Returns 1 if anything is wrong."""
    rows = [["TOPIC", "PARTITIONS", "REPLICAS", "MIN ISR", "CLEANUP", "STAMP", "STATE"]]
    for topic in result.reports:
        cells = ["-"] * 5
        if (found := topic.found) is not None:
            cells[:2] = str(found.partitions), str(found.replicas)
            if found.cleanup is not None:
                cells[2:] = str(found.insync), found.cleanup, "broker" if found.arrival else "sender"
        rows.append([topic.name, *cells, topic.problem or ("made" if topic.created else "ok")])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if result.reports else []:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    for warning in result.warnings:
        print(f"warning: {warning}")
    if result.problems:
        problems = f"{len(result.problems)} of {len(result.reports)} topics cannot be used"
        print(f"vitalcast: {problems}, the first: {result.problems[0]}", file=sys.stderr)
    return 1 if result.problems else 0
