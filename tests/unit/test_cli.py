"""The command line: what a user reads, exit codes, one-line errors. Each command is run as a user runs it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from stream_worker.cli import app, exit_code_of, main
from stream_worker.settings import Settings, SettingsError
from tests.worker_process import run_vitalcast

COMMANDS = tuple(getattr(get_command(app), "commands", ()))
SUBCOMMANDS = (["topics", "create"], ["topics", "check"], ["state", "show"], ["state", "forget"])
CLOSED = "127.0.0.1:1"  # nothing listens on port 1


def test_help_names_every_command_and_says_what_it_is_for() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    for command in COMMANDS:
        assert f"\n  {command} " in text
    assert "never the sole source" in text
    assert "..." not in text.partition("Commands:")[2], "a command's summary is cut off"


@pytest.mark.parametrize("command", [*([name] for name in COMMANDS), *SUBCOMMANDS])
def test_every_command_explains_itself(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_help_needs_neither_torch_nor_faust_nor_kafka() -> None:
    code = "import sys, stream_worker.cli; print(sorted({'torch', 'faust', 'kafka', 'pydantic'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["topics", "check", "-b", CLOSED], 1, "no Kafka broker answers at 127.0.0.1:1"),
        (["topics", "create", "-b", CLOSED], 1, "no Kafka broker answers"),
        (["watch", "-b", CLOSED], 1, "no Kafka broker answers"),
        (["view", "-b", CLOSED], 1, "no Kafka broker answers"),
        (["view", "-b", CLOSED, "--host", "0.0.0.0"], 2, "view_host 0.0.0.0 is not this machine alone: set view_token"),
        (["simulate", "-b", CLOSED], 1, "no Kafka broker answers"),
        (["replay", ".", "-b", CLOSED], 1, "no recordings"),
        (["replay", "nowhere", "-b", CLOSED], 1, "nowhere: no such file or folder"),
        (["replay", ".", "--speed", "fast"], 2, "--speed: 'fast' is neither a positive number nor max"),
        (["settings", "-b", "kafka:9092", "--config", "absent.toml"], 2, "absent.toml: no such file"),
        (["topics", "check", "-b", "kafka"], 2, "'kafka' is not HOST:PORT"),
        (["worker", "--emit", "sometimes"], 2, "emit:"),
        (["demo", "--speed", "10"], 2, "--speed is for --recordings"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["vitalcast", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vitalcast: ")
    assert words in line


def test_an_unknown_option_is_wrong_use(tmp_path: Path) -> None:
    result = run_vitalcast("worker", "--no-such-option", folder=tmp_path)
    assert result.returncode == 2
    assert "--no-such-option" in result.stderr


def test_bugs_are_not_dressed_up_as_user_errors() -> None:
    assert exit_code_of(SettingsError("x")) == 2
    assert exit_code_of(ValueError("x")) is None


def test_settings_print_as_a_settings_file_without_secrets(tmp_path: Path) -> None:
    for name in ("ca.crt", "password"):
        (tmp_path / name).write_text("hunter2\n")
    (tmp_path / "vitalcast.toml").write_text('grace_s = 5.0\nbootstrap_servers = "from-file:9092"\n')
    secrets = {
        "security_protocol": "SASL_SSL",
        "ssl_cafile": "ca.crt",
        "sasl_mechanism": "PLAIN",
        "sasl_username": "grace",
        "sasl_password_file": "password",
        "app_id": "from-environment",
        "view_token": "hunter2" * 3,
    }
    result = run_vitalcast("settings", "-b", "from-flag:9092", folder=tmp_path, settings=secrets)
    assert result.returncode == 0
    assert "hunter2" not in result.stdout
    assert '"grace"' not in result.stdout
    (tmp_path / "printed.toml").write_text(result.stdout)
    again = run_vitalcast("settings", "-c", "printed.toml", folder=tmp_path, settings={"sasl_username": "grace"})
    assert tomllib.loads(again.stdout)["app_id"] == "from-environment"
    printed = tomllib.loads(result.stdout)
    assert printed["bootstrap_servers"] == "from-flag:9092"
    assert printed["app_id"] == "from-environment"
    assert printed["grace_s"] == 5.0
    assert printed["limits"]["default"]["abp_mean"]["low"] == 65.0
    assert {name for name in Settings.model_fields if name not in result.stdout} == set()
