"""The Faust app and the process around it: wiring only."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import faust
import structlog
import torch
from faust.types import TP
from mode import Service

from model.predictor import Predictor
from stream_worker import health, log
from stream_worker.agent import ReadingsAgent
from stream_worker.chunks import ChunkBootStrategy, ChunkOptions, ChunkTableManager, ChunkTransport, WorkerError
from stream_worker.clients import KafkaFaultError
from stream_worker.connection import BrokerUnreachableError, aiokafka_config, check_broker
from stream_worker.metrics import Metrics
from stream_worker.pipeline import Pipeline
from stream_worker.settings import Settings
from stream_worker.stay_store import StayStore
from stream_worker.stopping import take_hang_ups
from stream_worker.topics import check_delivery, check_topics

events = structlog.get_logger("vitalcast")

TICK_S: Final = 1.0
# Faust goes on after this without a word, and with half of the state: longer than reading that of any hospital takes.
RECOVERY_WITHIN_S: Final = 900.0
# Lanes wait for their outputs for a while, and the libraries for a broker that may never come back.
STOP_WITHIN_S: Final = 60.0


class App(faust.App):  # type: ignore[misc]  # Faust is untyped
    """Faust's app without folders, and without a long end."""

    def _create_directories(self) -> None:
        """Nothing: state is in Kafka, and a worker that is killed would leave them behind."""

    def _crash(self, reason: BaseException) -> None:
        """End the process at once. One that goes to pieces still joins the group: partitions would move twice."""
        if not self.should_stop:
            self.chunk_options.on_failure(reason)
        super()._crash(reason)


def create_agent(settings: Settings, predictor: Predictor, shadow_predictor: Predictor | None) -> ReadingsAgent:
    """The agent of a worker that publishes what `predictor` forecasts, and scores another one beside it if there is."""
    metrics = Metrics(predictor.manifest, version("vitalcast"))
    shadow = None
    if shadow_predictor is not None:
        metrics.show_model(shadow_predictor.manifest, "shadow")
        shadow = Pipeline(settings, shadow_predictor, publishes=False)
    return ReadingsAgent(settings, Pipeline(settings, predictor), metrics, health.Health(), shadow)


def create_app(settings: Settings, agent: ReadingsAgent, bound: socket.socket) -> App:
    """The app: one agent over chunks of readings, one table that owns the stays."""
    app = App(
        settings.app_id,
        broker="kafka://" + settings.bootstrap_servers.replace(",", ";kafka://"),
        version=1,
        TableManager=ChunkTableManager,
        store="memory://",
        topic_allow_declare=False,  # topics are made by `vitalcast topics create`, with the replication they need
        topic_disable_leader=True,
        topic_partitions=1,
        table_standby_replicas=0,
        stream_wait_empty=True,
        stream_buffer_maxsize=2,  # a chunk that is taken for its state alone, and the one after it
        stream_recovery_delay=0.0,
        stream_publish_on_commit=False,
        broker_session_timeout=settings.session_timeout_s,
        broker_request_timeout=RECOVERY_WITHIN_S,
        worker_redirect_stdouts=False,
        web_enabled=False,
    )
    app.boot_strategy = ChunkBootStrategy(app)  # an attribute: Faust ignores it among the settings
    app.chunk_options = ChunkOptions(
        config=aiokafka_config(settings),
        exactly_once=settings.delivery == "exactly_once",
        session_timeout_s=settings.session_timeout_s,
        chunk_records=settings.chunk_records,
        instance_id=settings.instance_id,
        on_failure=agent.fail,
        on_assigned=agent.on_assigned,
        on_revoked=agent.on_revoked,
    )
    app.transport = ChunkTransport(app.conf.broker, app)

    topic = app.topic(
        settings.readings_topic,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        acks=False,  # Faust would keep the offset of each event until it commits, which lanes do
    )
    table = app.Table("stays", key_type=bytes, value_type=bytes)
    shadow_stays = None if agent.shadow is None else agent.shadow.stays
    table._data = StayStore(app, table, agent.pipeline.stays, shadow_stays, agent.on_recovered)

    @app.agent(topic)  # type: ignore[untyped-decorator]
    async def process_readings(stream: Any) -> None:
        async for event in stream.events():
            if event.message.generation_id != app.consumer_generation_id:
                continue  # its records are read again
            agent.lanes = app.consumer.lanes
            try:
                with app.consumer.processing(event.message):
                    await agent.process(event.value)
            except Exception as error:
                agent.fail(error)

    @app.on_before_shutdown.connect  # type: ignore[untyped-decorator]
    async def say_goodbye(*_args: Any, **_kwargs: Any) -> None:
        events.info("stopping")
        agent.on_stopping()
        for partition, lane in app.consumer.lanes.items():
            if partition.partition in agent.partitions:  # else its state is not there yet
                agent.beat(lane, is_stopping=True)

    app.add_dependency(Surroundings(app, settings, agent, bound))
    return app


class Surroundings(Service):  # type: ignore[misc]  # mode is untyped
    """What goes on beside the readings: HTTP, timers, a look at the topics, new models, an end to rebalances.

    No tasks of the app: those begin after the first recovery, and whoever asks for our health does not wait for that.
    They end when the app begins to stop; HTTP goes on until it has stopped.
    """

    def __init__(self, app: faust.App, settings: Settings, agent: ReadingsAgent, bound: socket.socket) -> None:
        self._app, self._settings, self._agent, self._bound = app, settings, agent, bound
        super().__init__()

    async def on_start(self) -> None:
        """Answer, before there is anything else."""
        self._http = await health.serve(self._bound, self._agent.health, self._agent.metrics.registry)

    async def on_stop(self) -> None:
        """Answer no more."""
        await self._http.cleanup()

    @Service.task  # type: ignore[untyped-decorator]
    async def _run_timers(self) -> None:
        app, agent = self._app, self._agent
        while not app.should_stop:
            agent.health.touch()
            if app.consumer.is_settled:
                agent.lanes = app.consumer.lanes
                try:
                    agent.tick(lambda partition: _lag(app, self._settings, agent, partition))
                except Exception as error:
                    agent.fail(error)
            await self.sleep(TICK_S)

    @Service.task  # type: ignore[untyped-decorator]
    async def _end_what_hangs(self) -> None:
        app, within_s, settled_at = self._app, self._settings.rebalance_within_s, time.monotonic()
        while not app.should_stop:
            if (fault := app.consumer.fault) is not None:
                self._agent.fail(WorkerError(fault))
            if app.consumer.is_settled or app.in_recovery:
                settled_at = time.monotonic()
            elif time.monotonic() - settled_at > within_s:
                self._agent.fail(WorkerError(f"a rebalance did not end within {within_s:.0f} s"))
            await self.sleep(TICK_S)
        late = WorkerError(f"it did not stop within {STOP_WITHIN_S:.0f} s")
        watchdog = threading.Timer(STOP_WITHIN_S, self._agent.fail, [late])
        watchdog.daemon = True
        watchdog.start()

    @Service.task  # type: ignore[untyped-decorator]
    async def _watch_topics(self) -> None:
        while not self._app.should_stop:
            if self._agent.doubts_topics():
                try:
                    problems = await asyncio.to_thread(check_topics, self._settings)
                except (BrokerUnreachableError, KafkaFaultError):
                    problems = []  # the lanes know how long to wait for a broker
                if problems:
                    self._agent.fail(WorkerError(problems[0]))
            await self.sleep(TICK_S)

    @Service.task  # type: ignore[untyped-decorator]
    async def _follow_models(self) -> None:
        is_hung_up = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, is_hung_up.set)
        take_hang_ups()
        while not self._app.should_stop:
            await is_hung_up.wait()
            is_hung_up.clear()
            await self._agent.reload_models()


def _lag(app: faust.App, settings: Settings, agent: ReadingsAgent, partition: int) -> int | None:
    """Records that are not processed yet; None while that is not known."""
    tp = TP(settings.readings_topic, partition)
    end: int | None = app.consumer.highwater(tp)
    if end is None:
        return None
    done: int = max(agent.pipeline.stays.next_offsets.get(partition, 0), app.consumer.done_until.get(tp, 0))
    return max(0, end - done)


def _load(settings: Settings, path: Path, role: str) -> Predictor:
    predictor = Predictor.load(path, settings.device)
    manifest = predictor.manifest
    events.info("model_loaded", role=role, name=manifest.name, version=manifest.version, sha256=manifest.sha256[:12])
    return predictor


def collect_rarely() -> None:
    """Spare what is there by now, and thousands of short-lived objects a chunk, from the search for cycles.

    The model and the libraries stay for good: scanning them at each collection was the largest pause there is.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def run_worker(settings: Settings) -> int:
    """Run the daemon until a signal stops it; the exit code.

    Raises: SettingsError, ArtifactError, BrokerUnreachableError, PortTakenError, WorkerError before anything is read.
    """
    log.configure(settings.log_level, settings.log_format)
    events.info("settings", **settings.redacted())
    torch.set_num_threads(1)  # batches are small: a second thread costs more than it brings
    predictor = _load(settings, settings.model, "live")
    shadow = None if settings.shadow_model is None else _load(settings, settings.shadow_model, "shadow")
    agent = create_agent(settings, predictor, shadow)
    bound = health.bind(settings.http_host, settings.http_port)
    check_broker(settings)
    check_delivery(settings)
    if problems := check_topics(settings):
        raise WorkerError(f"{problems[0]} (vitalcast topics create makes what is missing)")
    collect_rarely()
    worker = faust.Worker(
        create_app(settings, agent, bound), loglevel="WARN", redirect_stdouts=False, override_logging=False, quiet=True
    )
    worker.spinner = None  # it writes to the terminal, into the middle of the log's lines
    try:
        worker.execute_from_commandline()
    except SystemExit as exit_:
        code = int(exit_.code or 0)
        if code:
            events.error("stopped_by_failure", type="Crash", reason="Faust ended by itself: see the lines above")
        return code
    return 0
