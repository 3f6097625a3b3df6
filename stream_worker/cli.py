"""The `vitalcast` command. Each command imports what it needs, so that help and small commands answer at once."""
# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from stream_worker.times import LONGEST_S

if TYPE_CHECKING:
    from stream_worker.settings import Settings

FAULT: Final = 1
WRONG_USE: Final = 2

# \b keeps the paragraph's lines as they are.
OVERVIEW: Final = """
Forecasts the vital signs of intensive-care patients, from Kafka to Kafka. For reference only: never the sole source of
an alarm.

\b
See it work:       vitalcast demo
Run it:            vitalcast topics create -b kafka:9092
                   vitalcast worker -b kafka:9092
Send and watch:    vitalcast replay recordings/ -b kafka:9092
                   vitalcast watch -b kafka:9092    (in the browser: vitalcast view)
Make a model:      vitalcast train recordings/ --out my-model
                   vitalcast worker --model my-model

Every setting can be a variable VITALCAST_<NAME> or a line in vitalcast.toml; the common ones are flags too. Flags
override variables, and variables override the file. `vitalcast settings` lists all settings in force.
Exit codes: 0 success, 1 a fault, 2 wrong usage.
"""

app = typer.Typer(
    help=OVERVIEW,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
topics_app = typer.Typer(help="Create or check the Kafka topics.", no_args_is_help=True)
app.add_typer(topics_app, name="topics", rich_help_panel=None)
state_app = typer.Typer(help="Show or remove what is kept of a stay.", no_args_is_help=True)
app.add_typer(state_app, name="state", rich_help_panel=None)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="Settings file (TOML).", show_default="vitalcast.toml, if there"
    ),
]
Bootstrap = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-servers",
        "-b",
        metavar="SERVERS",
        help="Kafka brokers, each HOST:PORT, separated by commas.",
        show_default="127.0.0.1:9092",
    ),
]
AppId = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Consumer group, and prefix of the state's topic.", show_default="vitalcast"),
]
Model = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of a model artifact.", show_default="the bundled one")
]
Seed = Annotated[int, typer.Option(metavar="N", help="The same seed gives the same patients.", min=0)]
Recordings = Annotated[list[Path], typer.Argument(help="Recordings (*.csv.gz), or folders of them.", metavar="PATH")]
Patients = Annotated[int, typer.Option(metavar="N", help="Number of beds.", min=1, max=10_000)]


class UsageError(Exception):
    """Arguments that do not go together; the message is one line for the user."""


def _time(text: str) -> float:
    """A time that can be waited for, in seconds or minutes. Raises: typer.BadParameter."""
    try:
        time = float(text)
    except ValueError:
        time = -1.0
    if not 0 <= time <= LONGEST_S:
        raise typer.BadParameter(f"{text!r} is not a number from 0 to {LONGEST_S:.0f}")
    return time


Duration = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="End after this many seconds.", parser=_time, show_default="until Ctrl-C"),
]


def _utf8(text: str, what: str) -> str:
    """As it is on the wire. Raises: UsageError, which does not repeat it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not UTF-8") from error
    return text


def _stay_id(text: str) -> str:
    return _utf8(text, "STAY")


Stay = Annotated[str, typer.Argument(help="Its stay_id.", metavar="STAY", callback=_stay_id)]


def main() -> None:
    """Run the command line. What a user got wrong is one line on stderr and an exit code; a bug is a traceback."""
    # kafka-python reports connections that come and go as warnings; what matters reaches the user as an error of ours.
    logging.getLogger("kafka").addHandler(logging.NullHandler())
    logging.getLogger("kafka").propagate = False
    try:
        app()
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        from stream_worker.ward_words import printable

        print(f"vitalcast: {printable(str(error))}", file=sys.stderr)  # a file that it names may be called anything
        sys.exit(code)


def exit_code_of(error: Exception) -> int | None:
    """1 or 2 if the error's message is meant for the user, None if it is a bug.

    Known by name, so that no module is imported for it.
    """
    package = type(error).__module__.partition(".")[0]
    if package not in ("schemas", "model", "stream_worker", "__main__"):
        return None
    return WRONG_USE if type(error).__name__ in ("SettingsError", "UnfitArgumentError", "UsageError") else FAULT


def _settings(config: Path | None, **flags: Any) -> Settings:
    import os

    from stream_worker.settings import doubtful_variables, load_settings

    for warning in doubtful_variables(os.environ):
        print(f"vitalcast: warning: {warning}", file=sys.stderr)
    return load_settings(config, **flags)


def _console() -> Console:
    """Prints texts as they are: by default, rich takes `[a]` and `:a:` in the name of a file or broker for markup."""
    return Console(highlight=False, markup=False, emoji=False)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        from model.manifest import DEFAULT_ARTIFACT, read_manifest

        model = read_manifest(DEFAULT_ARTIFACT)
        print(f"vitalcast {version('vitalcast')}, model {model.name} {model.version} ({model.sha256[:12]})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and that of the default model.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """What holds for every command: nothing but the version."""


@app.command()
def demo(
    recordings: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Play these recordings instead of simulated patients.", show_default=False),
    ] = None,
    patients: Patients = 8,
    speed: Annotated[
        float | None,
        typer.Option(metavar="TIMES", help="Speed of recordings; 1: real time.", min=0.1, max=10**6, show_default="60"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            help="Port of the worker's metrics and health.",
            min=0,
            max=65_535,
            show_default="9464, or a free one",
        ),
    ] = None,
    seed: Seed = 0,
    model: Model = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Serve the live page too.")] = True,
    duration: Duration = None,
) -> None:
    """Show everything at work, on this machine alone.

    Runs an in-memory Kafka broker, a worker and patients, and shows the ward live in this terminal and in the browser.
    Each bed starts with two hours of history; deteriorations begin within the first minutes. Nothing has to be
    installed or configured, and nothing is left behind; VITALCAST_* and vitalcast.toml are ignored. Ctrl-C ends it.
    """
    from stream_worker.demo import Demo, run_demo

    if speed is not None and recordings is None:
        raise UsageError("--speed is for --recordings: simulated patients live in real time")
    wanted = Demo(
        recordings=recordings,
        patients=patients,
        speed=speed or 60.0,
        port=port,
        seed=seed,
        model=model,
        duration_s=duration,
        page=page,
    )
    run_demo(wanted, _console())


@app.command()
def worker(
    config: Config = None,
    bootstrap_servers: Bootstrap = None,
    app_id: AppId = None,
    model: Model = None,
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Where the model runs: auto, cpu or cuda.", show_default="auto")
    ] = None,
    shadow_model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A second artifact: scored beside the first, never published.")
    ] = None,
    delivery: Annotated[
        str | None, typer.Option(metavar="WHICH", help="exactly_once or at_least_once.", show_default="exactly_once")
    ] = None,
    emit: Annotated[
        str | None,
        typer.Option(metavar="WHICH", help="reading or step: a forecast for each.", show_default="reading"),
    ] = None,
    http_host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Address of metrics and health.", show_default="127.0.0.1")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port of metrics and health.", show_default="9464")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR.", show_default="INFO")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="auto, json or console.", show_default="auto")
    ] = None,
) -> None:
    """Run the daemon: readings in, forecasts out.

    Several workers with the same --app-id share the partitions. On SIGTERM or Ctrl-C a worker finishes the work in
    hand, commits and leaves; on SIGHUP it reads the model artifact again. Needs the topics: `vitalcast topics create`.
    """
    settings = _settings(
        config,
        bootstrap_servers=bootstrap_servers,
        app_id=app_id,
        model=model,
        device=device,
        shadow_model=shadow_model,
        delivery=delivery,
        emit=emit,
        http_host=http_host,
        http_port=http_port,
        log_level=log_level,
        log_format=log_format,
    )
    from stream_worker.stopping import nothing_in_hand

    nothing_in_hand()  # before the imports that take seconds
    from stream_worker.app import run_worker

    raise typer.Exit(run_worker(settings))


@app.command()
def replay(
    paths: Recordings,
    speed: Annotated[
        str, typer.Option(metavar="TIMES", help="Times real time; max: as fast as Kafka takes them.")
    ] = "60",
    shift_to_now: Annotated[
        bool, typer.Option("--shift-to-now", help="Shift each recording's times so that all of them end now.")
    ] = False,
    config: Config = None,
    bootstrap_servers: Bootstrap = None,
) -> None:
    """Send recordings to the readings topic.

    All stays are sent side by side, each in order.

    \b
    vitalcast replay recordings/ --speed max
    vitalcast replay a.csv.gz b.csv.gz --speed 600 --shift-to-now

    A recording is a gzip CSV named after its stay: a column `time` (ISO 8601), then one column for each signal, empty
    where not observed. Rows without any value are skipped.
    """
    from stream_worker.replay_command import run_replay

    settings = _settings(config, bootstrap_servers=bootstrap_servers)
    raise typer.Exit(run_replay(settings, paths, speed=_speed(speed), shift_to_now=shift_to_now, console=_console()))


def _speed(text: str) -> float | None:
    """Times real time; None for max. Raises: UsageError."""
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise UsageError(f"--speed: {text!r} is neither a positive number nor max")
    return speed


@app.command()
def simulate(
    patients: Patients = 8,
    rate: Annotated[
        float, typer.Option(metavar="N", help="Readings a second for each patient.", min=0.001, max=1000)
    ] = 1.0,
    seed: Seed = 0,
    history: Annotated[
        float,
        typer.Option(metavar="MINUTES", help="History to send first, one reading a minute.", parser=_time),
    ] = 0.0,
    duration: Duration = None,
    config: Config = None,
    bootstrap_servers: Bootstrap = None,
) -> None:
    """Send synthetic patients to the readings topic.

    Sends plausible, correlated vital signs in real time. Beds take turns with septic hypotension, desaturation,
    tachyarrhythmia, a lost sensor and artefacts, which begin within the first minutes and unfold over several.
    """
    from stream_worker.simulator.command import run_simulate

    settings = _settings(config, bootstrap_servers=bootstrap_servers)
    code = run_simulate(
        settings,
        patients=patients,
        rate=rate,
        seed=seed,
        history_min=history,
        duration_s=duration,
        console=_console(),
    )
    raise typer.Exit(code)


@topics_app.command("create")
def topics_create(
    partitions: Annotated[
        int,
        typer.Option(
            metavar="N", help="Partitions of each new topic, unless the readings topic exists.", min=1, max=10_000
        ),
    ] = 4,
    config: Config = None,
    bootstrap_servers: Bootstrap = None,
    app_id: AppId = None,
) -> None:
    """Create the topics that are missing.

    They get as many partitions as the readings topic, and three replicas if there are three brokers, else one, with a
    warning. Existing topics are checked but never changed, so it does no harm to run this twice.
    """
    from stream_worker.topics import create_topics
    from stream_worker.topics_command import report

    wanted = _settings(config, bootstrap_servers=bootstrap_servers, app_id=app_id)
    raise typer.Exit(report(create_topics(wanted, partitions)))


@topics_app.command("check")
def topics_check(config: Config = None, bootstrap_servers: Bootstrap = None, app_id: AppId = None) -> None:
    """Check whether the topics can be used.

    The exit code is 1 if the worker cannot use them as they are.
    """
    from stream_worker.topics import inspect_topics
    from stream_worker.topics_command import report

    raise typer.Exit(report(inspect_topics(_settings(config, bootstrap_servers=bootstrap_servers, app_id=app_id))))


@state_app.command("show")
def state_show(
    stay: Stay,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON, with the whole window.")] = False,
    config: Config = None,
    bootstrap_servers: Bootstrap = None,
    app_id: AppId = None,
    model: Model = None,
) -> None:
    """Show what the worker keeps of a stay.

    Prints the newest values, window and alerts from the changelog; no worker needs to run. This is patient data.
    """
    from stream_worker.state_command import run_show

    wanted = _settings(config, bootstrap_servers=bootstrap_servers, app_id=app_id, model=model)
    run_show(wanted, stay, _console(), as_json=as_json)


@state_app.command("forget")
def state_forget(
    stay: Stay,
    within: Annotated[float, typer.Option(metavar="SECONDS", help="Wait this long for a worker.", parser=_time)] = 60.0,
    config: Config = None,
    bootstrap_servers: Bootstrap = None,
    app_id: AppId = None,
) -> None:
    """Remove what the worker keeps of a stay.

    Sends the event that the stay has ended, and waits until a worker has cleared its alerts and removed its state.
    Stop sending its readings first: another one would begin it anew. What was published about it stays in the topics
    until retention removes it.
    """
    from stream_worker.state_command import run_forget

    wanted = _settings(config, bootstrap_servers=bootstrap_servers, app_id=app_id)
    run_forget(wanted, stay, _console(), within_s=within)


@app.command()
def watch(
    config: Config = None,
    bootstrap_servers: Bootstrap = None,
    duration: Duration = None,
) -> None:
    """Show the ward live in this terminal.

    Shows each bed's values, forecasts 15 minutes ahead and open alerts, those in need first. Reads the topics like any
    other consumer and changes nothing.
    """
    from stream_worker.watch import run_watch

    run_watch(_settings(config, bootstrap_servers=bootstrap_servers), _console(), duration)


@app.command()
def view(
    config: Config = None,
    bootstrap_servers: Bootstrap = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="HOST", help="Address; any but this machine's own needs a token.", show_default="127.0.0.1"
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port; 0: any free one.", show_default="8765")
    ] = None,
    duration: Duration = None,
) -> None:
    """Show the ward live in the browser.

    Has a tile for each bed, those in need first, and for each bed fan charts of its forecasts beside what happened, its
    alerts and how good its forecasts were. Begins with the last hours. Reads the topics like any other consumer and
    changes nothing. To open it to other machines, set VITALCAST_VIEW_TOKEN and put TLS in front.
    """
    from stream_worker.log import configure
    from stream_worker.view.command import run_view

    wanted = _settings(config, bootstrap_servers=bootstrap_servers, view_host=host, view_port=port)
    configure(wanted.log_level, wanted.log_format)  # else what somebody sends would be quoted, in pages of traceback
    run_view(wanted, _console(), duration)


@app.command()
def settings(config: Config = None, bootstrap_servers: Bootstrap = None, app_id: AppId = None) -> None:
    """Print the settings in force.

    As TOML, with secrets hidden: a starting point for a vitalcast.toml.
    """
    from stream_worker.settings_toml import as_toml

    print(as_toml(_settings(config, bootstrap_servers=bootstrap_servers, app_id=app_id)))


@app.command()
def train(
    paths: Recordings,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the artifact to.")] = Path("artifact"),
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of the weights and of which stays are held out.", min=0)
    ] = 0,
    updates: Annotated[
        int | None, typer.Option(metavar="N", help="Optimiser steps.", min=1, show_default="the recipe's")
    ] = None,
    hold_out: Annotated[
        int, typer.Option(metavar="N", help="Recordings held out from training, to score the model on.", min=0)
    ] = 10,
    name: Annotated[str, typer.Option(metavar="NAME", help="The model's name, in every forecast.")] = "vitals-lstm",
    version: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="The model's version, in every forecast.", show_default="today's date"),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the weights here, for `export`.", show_default=False)
    ] = None,
    data: Annotated[
        str, typer.Option(metavar="TEXT", help="What the recordings are and whom to cite, for the model card.")
    ] = "",
) -> None:
    """Train a model on recordings.

    Scores the model on held-out recordings and writes an artifact for `worker --model`.
    """
    _needs_train_extra()
    from model.train import UPDATES, train_artifact
    from schemas.recordings import find_recordings

    if not name.strip():
        raise UsageError("--name: must not be empty")
    for option, text in (("--name", name), ("--version", version or ""), ("--data", data)):
        _utf8(text, option)
    recordings = find_recordings(*paths)
    _make_folder(out, "--out")
    if checkpoint is not None:
        _make_folder(checkpoint.parent, "--checkpoint")
        if checkpoint.is_dir():
            raise UsageError(f"--checkpoint {checkpoint}: Is a directory")
    train_artifact(
        recordings,
        out,
        seed=seed,
        updates=updates or UPDATES,
        hold_out=hold_out,
        name=name,
        version=version or f"{datetime.now(UTC):%Y.%m.%d}",
        checkpoint=checkpoint,
        data=data,
    )
    print(f"Artifact in {out}. Next: vitalcast worker --model {out}")


@app.command()
def evaluate(
    paths: Recordings,
    model: Model = None,
    out: Annotated[Path, typer.Option(metavar="PATH", help="Folder of the report, or its HTML file.")] = Path(
        "reports"
    ),
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also fit simple models and boosted trees; may take half an hour.")
    ] = False,
    config: Config = None,
) -> None:
    """Score a model on recordings.

    Uses those it has not seen, compares it with persistence (the last value stays), and draws plots.
    """
    _needs_train_extra()
    from model.evaluate import evaluate_artifact, page_in
    from schemas.recordings import find_recordings

    _make_folder(page_in(out).parent, "--out")
    artifact = _settings(config, model=model).model
    report = evaluate_artifact(artifact, find_recordings(*paths), out, baselines=baselines)
    print(f"Report: {report.page}")


@app.command()
def backtest(
    paths: Recordings,
    model: Model = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the report.")] = Path("reports"),
    curve: Annotated[
        bool, typer.Option("--curve", help="Also early warning at other thresholds, cross-validated; takes minutes.")
    ] = False,
    config: Config = None,
) -> None:
    """Judge the alerts on recordings.

    Runs the worker's own pipeline without Kafka and reports alerts per patient-day, episodes alerted in time, early
    warning of low blood pressure beside plain rules, and whether probabilities come true.
    """
    _needs_train_extra()
    from stream_worker.backtest.command import run_backtest

    _make_folder(out, "--out")
    run_backtest(_settings(config, model=model), paths, out, _console(), with_curve=curve)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE", help="Written by `train --checkpoint`.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the artifact to.")] = Path("artifact"),
) -> None:
    """Turn a checkpoint into an artifact.

    An artifact is a TorchScript file, a manifest and a model card.
    """
    _needs_train_extra()
    from model.export import export_artifact

    _make_folder(out, "--out")
    export_artifact(checkpoint, out)
    print(f"Artifact in {out}. Next: vitalcast evaluate PATH... --model {out}")


def _needs_train_extra() -> None:
    """Refuse at once, not after minutes, where what makes plots and pages is not installed."""
    if missing := [name for name in ("matplotlib", "jinja2", "sklearn") if find_spec(name) is None]:
        raise UsageError(
            f"not installed: {', '.join(missing)}; get the extra `train`, in a checkout: pip install '.[train]'"
        )


def _make_folder(folder: Path, option: str) -> None:
    """Make sure of the folder that results are written to at the end, maybe after hours. Raises: UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError(f"{option} {folder}: {error.strerror}") from error


if __name__ == "__main__":
    main()
