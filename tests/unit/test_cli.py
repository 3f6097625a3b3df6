"""The command line: what a user reads, exit codes, one-line errors."""

from __future__ import annotations

import gzip
import os
import re
import socket
import subprocess
import sys
import tomllib
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from model.manifest import DEFAULT_ARTIFACT, ArtifactError, read_manifest
from schemas.recordings import RecordingError, extent_of, find_recordings, read_rows
from stream_worker.cli import _console, app, exit_code_of, main
from stream_worker.settings import Settings, SettingsError, doubtful_variables
from stream_worker.topics import FoundTopic, TopicReport, TopicsResult
from stream_worker.topics_command import report
from tests.worker_process import run_vitalcast

COMMANDS = tuple(getattr(get_command(app), "commands", ()))
SUBCOMMANDS = (["topics", "create"], ["topics", "check"], ["state", "show"], ["state", "forget"])
CLOSED = "127.0.0.1:1"  # nothing listens on port 1

Command = Callable[..., tuple[Any, list[str]]]


@pytest.fixture
def vitalcast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in an empty folder, in this process; returns its exit code and the lines on stderr."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("VITALCAST_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str) -> tuple[Any, list[str]]:
        monkeypatch.setattr("sys.argv", ["vitalcast", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize("look", [extent_of, lambda path: list(read_rows(path))], ids=["extent", "rows"])
def test_a_recording_that_unpacks_to_one_endless_line_is_not_taken_into_memory(
    look: Callable[[Path], object], tmp_path: Path
) -> None:
    megabytes = 64
    path = tmp_path / "s.csv.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(b"time,hr\n2026-11-22T10:15:30Z,")
        for _ in range(megabytes):
            file.write(b"8" * 1_000_000)
    tracemalloc.start()
    with pytest.raises(RecordingError, match=r"s\.csv\.gz: not a readable recording"):
        look(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 16_000_000


def test_the_name_of_a_file_does_not_steer_the_terminal(vitalcast: Command, tmp_path: Path) -> None:
    (tmp_path / "s\x1b[31m\n.csv.gz").write_bytes(gzip.compress(b"time,hr\nnever,80\n"))
    code, lines = vitalcast("replay", ".")
    assert code == 1
    assert lines == [
        "vitalcast: s\ufffd[31m\ufffd.csv.gz, line 2: unreadable time, which is written like 2026-11-22T10:15:30Z"
    ]


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
        (["topics", "check", "-b", "kafka..svc:9092"], 2, "'kafka..svc:9092' is not HOST:PORT"),
        (["topics", "check", "-b", "kafka:99999"], 2, "'kafka:99999' is not HOST:PORT"),
        (["worker", "--emit", "sometimes"], 2, "emit:"),
        (["demo", "--speed", "10"], 2, "--speed is for --recordings"),
        (["state", "show", "\udcff", "-b", CLOSED], 2, "STAY is not UTF-8"),
        (["export", "model.pt", "--out", "/dev/null"], 2, "--out /dev/null: File exists"),
        (["evaluate", "nowhere", "--out", "/dev/null"], 2, "--out /dev/null: File exists"),
        (["backtest", "nowhere", "--out", "/dev/null"], 2, "--out /dev/null: File exists"),
        (["train", "nowhere", "--name", " "], 2, "--name: must not be empty"),
        (["train", "nowhere", "--data", "\udcff"], 2, "--data is not UTF-8"),
        (["train", "a.csv", "--checkpoint", "."], 2, "--checkpoint .: Is a directory"),
        (["train", "a.csv", "--out", "/proc"], 2, "--out /proc: "),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(
    arguments: list[str], code: int, words: str, vitalcast: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.csv").touch()
    monkeypatch.setenv("VITALCAST_VIEW_PORT", "0")  # the default one may be somebody's
    ended, (line,) = vitalcast(*arguments)
    assert ended == code
    assert line.startswith("vitalcast: ")
    assert words in line


def test_an_unknown_option_is_wrong_use(vitalcast: Command) -> None:
    code, lines = vitalcast("worker", "--no-such-option")
    assert code == 2
    assert "--no-such-option" in lines[-1]


@pytest.mark.parametrize("arguments", [["view", "--duration"], ["watch", "--duration"], ["simulate", "--history"]])
@pytest.mark.parametrize("time", ["inf", "nan", "-1", "soon"])
def test_a_time_that_cannot_be_waited_for_is_wrong_use(arguments: list[str], time: str, vitalcast: Command) -> None:
    code, lines = vitalcast(*arguments, time, "-b", CLOSED)
    assert code == 2
    assert f"{time!r} is not a number from 0 to " in lines[-1]


def test_the_version_names_the_default_model() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    model = read_manifest(DEFAULT_ARTIFACT)
    assert (shown.exit_code, shown.output) == (
        0,
        f"vitalcast {version('vitalcast')}, model {model.name} {model.version} ({model.sha256[:12]})\n",
    )


def test_the_port_that_was_asked_for_is_not_exchanged_for_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run_vitalcast("demo", "--port", port, "--duration", "1", folder=tmp_path)
    assert result.returncode == 1
    assert f"vitalcast: --port {port} is taken" in result.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"limits": "{not JSON"}, "the variable VITALCAST_LIMITS must be JSON"),
        ({"view_token": "short"}, "view_token: must have at least 16 characters"),
        ({"app_id": "a b"}, "app_id: "),
        ({"evict_after_s": "inf"}, "evict_after_s: Input should be a finite number"),
        ({"max_future_s": "1e13"}, "max_future_s: Input should be less than"),
        ({"readings_topic": ""}, "readings_topic: "),
        ({"heartbeat_s": "0.2"}, "heartbeat_s: Input should be greater than or equal to 1"),
        ({"alert_budget_per_patient_day": "inf"}, "alert_budget_per_patient_day: Input should be a finite number"),
        ({"dead_letters_topic": "vitals.readings"}, "each topic needs a name of its own"),
    ],
)
def test_a_variable_that_cannot_be_used_is_one_line(
    variables: dict[str, str], words: str, vitalcast: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"VITALCAST_{name.upper()}", value)
    code, (line,) = vitalcast("settings")
    assert code == 2
    assert words in line


def test_variables_that_do_nothing_are_told_of() -> None:
    assert doubtful_variables(["PATH", "VITALCAST_APP_ID", "VITALCAST_LIMITS__DEFAULT__HR__HIGH"]) == []
    of_services = ["SERVICE_HOST", "PORT", "PORT_9464_TCP", "WORKER_SERVICE_PORT_METRICS", "WORKER_PORT_9464_TCP_ADDR"]
    assert doubtful_variables([f"VITALCAST_{name}" for name in [*of_services, "BENCH_SECONDS"]]) == []
    assert doubtful_variables(["VITALCAST_BOOTSTRAP_SERVER", "VITALCAST_LIMITS__ICU-3__HR__HIGH"]) == [
        "VITALCAST_BOOTSTRAP_SERVER: no such setting; is it VITALCAST_BOOTSTRAP_SERVERS?",
        "VITALCAST_LIMITS__ICU-3__HR__HIGH: holds for a care unit 'icu-3' in lower case; others need the settings file",
    ]


def test_a_line_of_the_settings_file_that_is_no_setting_is_refused(vitalcast: Command) -> None:
    Path("vitalcast.toml").write_text('bootstrap_server = "kafka:9092"\n')
    assert vitalcast("settings") == (2, ["vitalcast: bootstrap_server: no such setting; is it bootstrap_servers?"])


def test_a_topic_is_one_line_whatever_the_width_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    reports = [
        TopicReport("vitals.readings", FoundTopic(4, 3, "delete", arrival=True, insync=2), created=False, problem=None),
        TopicReport("vitals.alerts", FoundTopic(4, 1, "delete", arrival=False, insync=1), created=True, problem=None),
        TopicReport("vitalcast-stays-changelog", None, created=False, problem="does not exist"),
    ]
    assert report(TopicsResult(reports, [])) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [re.split("  +", line) for line in lines] == [
        ["TOPIC", "PARTITIONS", "REPLICAS", "MIN ISR", "CLEANUP", "STAMP", "STATE"],
        ["vitals.readings", "4", "3", "2", "delete", "broker", "ok"],
        ["vitals.alerts", "4", "1", "1", "delete", "sender", "made"],
        ["vitalcast-stays-changelog", *["-"] * 5, "does not exist"],
    ]
    assert max(map(len, lines[:3])) <= 80


def test_what_is_printed_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    text = "Live page: http://[fd00:a::1]:8765/ · Kafka [fe80::1]:9092"
    _console().print(text)
    assert capsys.readouterr().out == f"{text}\n"


def test_bugs_are_not_dressed_up_as_user_errors() -> None:
    assert exit_code_of(SettingsError("x")) == 2
    assert exit_code_of(ArtifactError("x")) == 1  # its files may be about to be replaced: a supervisor tries again
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
        "limits": '{"default": {"abp_sys": {"high": null}}}',
        "view_token": "hunter2" * 3,
    }
    result = run_vitalcast("settings", "-b", "from-flag:9092", folder=tmp_path, settings=secrets)
    assert result.returncode == 0
    assert "hunter2" not in result.stdout
    assert '"grace"' not in result.stdout
    (tmp_path / "printed.toml").write_text(result.stdout)
    again = run_vitalcast("settings", "-c", "printed.toml", folder=tmp_path, settings={"sasl_username": "grace"})
    printed = tomllib.loads(result.stdout)
    assert {**tomllib.loads(again.stdout), "http_port": printed["http_port"]} == printed
    assert printed["bootstrap_servers"] == "from-flag:9092"
    assert printed["app_id"] == "from-environment"
    assert printed["grace_s"] == 5.0
    assert printed["limits"]["default"]["abp_mean"]["low"] == 65.0
    assert {name for name in Settings.model_fields if name not in result.stdout} == set()


ODD_RECORDINGS: dict[str, list[str]] = {
    "empty": [],
    "without any value": [f"2026-01-01T00:{minute:02}:00Z,," for minute in range(60)],
    "one row": ["2026-01-01T00:00:00Z,80,97"],
    "out of range": [f"2026-01-01T00:{minute:02}:00Z,900,4" for minute in range(60)],
    "of years": ["2016-01-01T00:00:00Z,80,97", "2026-01-01T00:00:00Z,80,97"],
}


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("backtest", "empty"),
        ("backtest", "of years"),
        *((command, name) for command in ("train", "evaluate") for name in ODD_RECORDINGS),
    ],
)
def test_recordings_that_cannot_be_used_are_told_of_in_one_line(
    command: str, name: str, vitalcast: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stay in ("a", "b"):
        Path(f"{stay}.csv").write_text("\n".join(["time,hr,spo2", *ODD_RECORDINGS[name]]) + "\n")
    options = {"train": ["--updates", "2", "--hold-out", "0"], "evaluate": [], "backtest": []}[command]
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal, whose progress bar takes what is printed
    code, lines = vitalcast(command, "a.csv", "b.csv", "--out", "out", *options)
    assert code == 1
    assert lines[-1].startswith("vitalcast: ")


def damaged(recording: bytes) -> bytes:
    begin, end = len(recording) // 2, len(recording) // 2 + 60
    return recording[:begin] + bytes(byte ^ 0x5A for byte in recording[begin:end]) + recording[end:]


LINES = b"".join(b"2026-01-01T00:%02d:00Z,%d\n" % (n % 60, n * n % 89 + 30) for n in range(3000))


@pytest.mark.parametrize(
    "recording",
    [
        damaged(gzip.compress(b"time,hr\n" + LINES)),
        gzip.compress(b"time,hr\n" + LINES)[:-20],
        gzip.compress(b'time,hr\n2026-01-01T00:00:00Z,"' + b"8" * 200_000 + b'"\n'),
        gzip.compress(b"time,hr\n0001-01-01T00:00:00+14:00,80\n"),
        b"no gzip",
    ],
    ids=["damaged", "cut off", "a cell without end", "before the first year", "no gzip"],
)
def test_a_damaged_recording_is_named(recording: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.csv.gz"
    path.write_bytes(recording)
    with pytest.raises(RecordingError, match=r"^s\.csv\.gz"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("recording", "reason"),
    [
        ("", "no column 'time' in its first line, which has commas between names"),
        ("time;hr\n2026-01-01T00:00:00Z;80\n", "no column 'time' in its first line, which has commas between names"),
        ("time,hr\n1767225600,80\n", "line 2: unreadable time, which is written like 2026-11-22T10:15:30Z"),
        ("time,hr,rhythm\n2026-01-01T00:00:00Z,80,SR\n", "line 2: unreadable number in column 'rhythm'"),
        ("time,hr\n2026-01-01T00:00:00Z,80,5\n", "line 2: more cells than the first line has names"),
    ],
    ids=["empty", "semicolons", "seconds", "words", "decimal commas"],
)
def test_what_is_wrong_with_a_recording_is_told(recording: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(recording)
    with pytest.raises(RecordingError, match=f"^s.csv.* {re.escape(reason)}$"):
        list(read_rows(path))


def test_a_byte_order_mark_is_no_part_of_the_first_column_s_name(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("\ufefftime,hr\n2026-01-01T00:00:00Z,80\n", encoding="utf-8")
    assert [row.values for row in read_rows(path)] == [{"hr": 80.0}]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    """One of them would be read, and the other left out without a word."""
    path = tmp_path / "s.csv"
    for head, is_refused in (("time,hr,spo2,hr", True), ("time,hr,,", False)):  # spreadsheets write empty columns
        path.write_text(f"{head}\n2026-01-01T00:00:00Z,80,,\n")
        with pytest.raises(RecordingError, match="two columns of one name") if is_refused else nullcontext():
            assert len(list(read_rows(path))) == 1


def test_two_recordings_of_one_stay_are_refused(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "s.csv.gz").write_bytes(gzip.compress(b"time,hr\n2026-01-01T00:00:00Z,80\n"))
    with pytest.raises(RecordingError, match="of one stay"):
        find_recordings(tmp_path / "one", tmp_path / "other")
    assert len(find_recordings(tmp_path / "one", tmp_path / "one" / "s.csv.gz")) == 1


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(b"bed-\xff", marks=pytest.mark.skipif(sys.platform == "darwin", reason="no such names there")),
        b"",
        b"x" * 129,
    ],
    ids=["no UTF-8", "empty", "too long"],
)
def test_a_recording_whose_name_is_no_stay_id_is_refused(name: bytes, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(name + b".csv.gz")).write_bytes(gzip.compress(b"time,hr\n2026-01-01T00:00:00Z,80\n"))
    with pytest.raises(RecordingError, match="no stay_id"):
        find_recordings(tmp_path)


def test_a_stop_that_comes_while_the_command_waits_for_one_ends_it() -> None:
    """The handler runs in the thread that waits, which may hold the event's lock then."""
    code = """
import os, signal
from stream_worker.stopping import stop_on_signals
with stop_on_signals() as stop:
    with stop._cond:
        os.kill(os.getpid(), signal.SIGTERM)
    print(stop.wait(10))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert ended.stdout.strip() == "True"


def test_a_command_that_is_to_outlive_its_terminal_does() -> None:
    """As under nohup."""
    code = """
import os, signal
from stream_worker.stopping import stop_on_signals
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with stop_on_signals() as stop:
    os.kill(os.getpid(), signal.SIGHUP)
    print(stop.wait(0.5))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert ended.stdout.strip() == "False"
