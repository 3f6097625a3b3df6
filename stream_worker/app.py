"""The Faust app and the process around it: wiring only."""

from __future__ import annotations

import asyncio
import gc
import socket
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import faust
import structlog
import torch
from aiokafka import TopicPartition

from model.predictor import Predictor
from stream_worker import health, log
from stream_worker.agent import ReadingsAgent, StayStore
from stream_worker.chunks import ChunkBootStrategy, ChunkTableManager, ChunkTransport, Connection
from stream_worker.connection import aiokafka_config, check_broker
from stream_worker.metrics import Metrics
from stream_worker.pipeline import Pipeline
from stream_worker.settings import Settings, SettingsError
from stream_worker.stays import Stays
from stream_worker.topics import check_topics

events = structlog.get_logger("vitalcast")

TICK_S: Final = 1.0


class StartError(Exception):
    """Something the worker needs is not as it must be; the message is one line for the user."""


def create_app(settings: Settings, predictor: Predictor, bound: socket.socket, scratch: Path) -> faust.App:
    """The app: one agent over chunks of readings, one table that owns the stays. `scratch`: a folder for Faust."""
    stays = Stays(predictor.manifest, predictor.initial_state(1))
    metrics = Metrics(predictor.manifest, version("vitalcast"))
    state = health.Health()
    agent = ReadingsAgent(settings, Pipeline(settings, predictor, stays), metrics, state)

    app = faust.App(
        settings.app_id,
        broker="kafka://" + settings.bootstrap_servers.replace(",", ";kafka://"),
        version=1,
        datadir=scratch,
        TableManager=ChunkTableManager,
        store="memory://",
        topic_allow_declare=False,  # topics are made by `vitalcast topics create`, with the replication they need
        topic_disable_leader=True,
        topic_partitions=1,
        table_standby_replicas=0,
        stream_wait_empty=True,
        stream_buffer_maxsize=4,  # chunks read ahead: enough to be busy, few enough to be small
        stream_recovery_delay=0.0,
        stream_publish_on_commit=False,
        broker_session_timeout=settings.session_timeout_s,
        worker_redirect_stdouts=False,
        web_enabled=False,
    )
    app.boot_strategy = ChunkBootStrategy(app)  # an attribute: Faust ignores it among the settings
    app.connection = Connection(
        config=aiokafka_config(settings),
        exactly_once=settings.delivery == "exactly_once",
        session_timeout_s=settings.session_timeout_s,
        chunk_records=settings.chunk_records,
        instance_id=settings.instance_id,
        on_failure=agent.fail,
        on_assigned=agent.on_assigned,
    )
    app.transport = ChunkTransport(app.conf.broker, app)

    topic = app.topic(
        settings.readings_topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )
    table = app.Table("stays", key_type=bytes, value_type=bytes)
    store = StayStore("memory://", app, table)
    store.stays, store.on_loaded_callback = stays, agent.on_recovered
    table._data = store

    @app.agent(topic)  # type: ignore[untyped-decorator]
    async def process_readings(stream: Any) -> None:
        async for event in stream.events():
            if event.message.generation_id != app.consumer_generation_id:
                continue  # of an assignment that has ended: the records are read again
            agent.lanes = app.consumer.lanes
            try:
                await agent.process(event.value)
            except Exception as error:
                agent.fail(error)

    @app.task  # type: ignore[untyped-decorator]
    async def run_timers() -> None:
        runner = await health.serve(bound, state, metrics.registry)
        try:
            while not app.should_stop:
                agent.lanes = app.consumer.lanes
                if not app.rebalancing:
                    try:
                        await agent.tick(lambda partition: _lag(app, settings.readings_topic, partition, stays))
                    except Exception as error:
                        agent.fail(error)
                await asyncio.sleep(TICK_S)
        finally:
            await runner.cleanup()

    @app.on_before_shutdown.connect  # type: ignore[untyped-decorator]
    async def say_goodbye(*_args: Any, **_kwargs: Any) -> None:
        events.info("stopping")
        agent.on_stopping()
        for lane in list(app.consumer.lanes.values()):
            await agent.beat(lane, is_stopping=True)

    return app


def _lag(app: faust.App, topic: str, partition: int, stays: Stays) -> int | None:
    """Records that are not processed yet; None while that is not known."""
    end = app.consumer.highwater(TopicPartition(topic, partition))
    if end is None:
        return None
    return max(0, int(end) - stays.next_offsets.get(partition, 0))


def run_worker(settings: Settings) -> int:
    """Run the daemon until a signal stops it; the exit code.

    Raises: SettingsError, ArtifactError, BrokerUnreachableError, PortTakenError, StartError before anything is read.
    """
    log.configure(settings.log_level, settings.log_format)
    events.info("settings", **settings.redacted())
    torch.set_num_threads(1)  # batches are small: a second thread costs more than it brings
    predictor = Predictor.load(settings.model, settings.device)
    if settings.grace_s > predictor.manifest.step_s:
        raise SettingsError(f"grace_s: must not be longer than the model's step of {predictor.manifest.step_s} s")
    manifest = predictor.manifest
    events.info("model_loaded", name=manifest.name, version=manifest.version, sha256=manifest.sha256[:12])
    bound = health.bind(settings.http_host, settings.http_port)
    check_broker(settings)
    if problems := check_topics(settings):
        raise StartError(f"{problems[0]} (vitalcast topics create makes what is missing)")
    # The model and the libraries stay for good: scanning them at each collection is the largest pause there is.
    gc.collect()
    gc.freeze()
    with TemporaryDirectory(prefix="vitalcast-") as scratch:
        app = create_app(settings, predictor, bound, Path(scratch))
        worker = faust.Worker(app, loglevel="WARN", redirect_stdouts=False, override_logging=False, quiet=True)
        try:
            worker.execute_from_commandline()
        except SystemExit as exit_:
            return int(exit_.code or 0)
    return 0
