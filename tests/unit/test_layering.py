"""Imports point one way, schemas <- model <- stream_worker, and few modules know the frameworks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "schemas": {"schemas"},
    "model": {"schemas", "model"},
    "stream_worker": {"schemas", "model", "stream_worker"},
}
OURS = {"schemas", "model", "stream_worker", "tests", "deploy"}
FAUST_AT_HOME = ("stream_worker/app.py", "stream_worker/chunks/")
# Who keeps the model's states and who runs it; the others say on how many threads.
TORCH_AT_HOME = (
    "stream_worker/stays.py",
    "stream_worker/chain.py",
    "stream_worker/app.py",
    "stream_worker/backtest/feed.py",
)


# By lines: `ast.parse` of Python 3.11 raises SystemError now and then (python/cpython#106905).
IMPORT = re.compile(r"^\s*(?:from (\S+) import |import (.+))", re.MULTILINE)


def imports(file: Path) -> Iterator[str]:
    """The dotted name of every module that `file` imports, inside functions too."""
    for origin, modules in IMPORT.findall(file.read_text(encoding="utf-8")):
        assert not origin.startswith("."), f"{file}: imports are absolute"
        yield from [origin] if origin else (module.split()[0] for module in modules.split(","))


def sources(package: str) -> list[Path]:
    """The package's own source files."""
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    for file in sources(package):
        foreign = {name.partition(".")[0] for name in imports(file)} & OURS - MAY_IMPORT[package]
        assert not foreign, f"{file.relative_to(ROOT)} imports {foreign}"


def test_only_the_shell_knows_faust() -> None:
    for package in MAY_IMPORT:
        for file in sources(package):
            path = file.relative_to(ROOT).as_posix()
            if not path.startswith(FAUST_AT_HOME):
                assert not {name.partition(".")[0] for name in imports(file)} & {"faust", "mode"}, path


def test_chunks_know_nothing_of_vital_signs() -> None:
    for file in sources("stream_worker/chunks"):
        ours = {name for name in imports(file) if name.partition(".")[0] in OURS}
        outside = {name for name in ours if not name.startswith("stream_worker.chunks")}
        assert not outside, f"{file.relative_to(ROOT)} imports {outside}"


def test_the_contract_needs_neither_faust_nor_torch() -> None:
    for file in sources("schemas"):
        roots = {name.partition(".")[0] for name in imports(file)}
        assert not roots & {"faust", "torch", "aiokafka", "kafka", "confluent_kafka"}, file


def test_torch_stays_with_those_who_run_the_model() -> None:
    for file in sources("stream_worker"):
        path = file.relative_to(ROOT).as_posix()
        if not path.startswith(TORCH_AT_HOME):
            assert "torch" not in {name.partition(".")[0] for name in imports(file)}, path


def test_the_path_of_a_reading_needs_no_training_code() -> None:
    # It takes the predictor, the manifest, what a step is, and the arrays' names; the rest is for offline commands.
    offline = {"stream_worker/cli.py"}
    for file in sources("stream_worker"):
        path = file.relative_to(ROOT).as_posix()
        names = {name for name in imports(file) if name.startswith("model.")}
        if path not in offline:
            assert names <= {"model.arrays", "model.predictor", "model.manifest", "model.steps"}, (
                f"{path} imports {names}"
            )
