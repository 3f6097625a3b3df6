"""Quix Streams: a stateful function over the readings of each stay, state in RocksDB and its changelog, exactly once.

Its functions take one message at a time, so the model does too.
"""

from __future__ import annotations

from typing import Any

from quixstreams import Application, State, message_context  # type: ignore[import-not-found]

from tests.bench.peers.job import Job, load_predictor
from tests.bench.peers.one_stay import OneByOne, Remembered


def main(job: Job) -> None:
    """Run until a signal."""
    settings = job.settings()
    core = OneByOne(settings, load_predictor(settings))
    remembered = Remembered(core)
    app = Application(
        broker_address=job.servers,
        consumer_group=job.app_id,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=1.0,
        state_dir=job.folder,
        auto_create_topics=True,
        producer_extra_config={"linger.ms": 20, "compression.type": "zstd"},
        loglevel="WARNING",
    )
    as_bytes: Any = {"key_deserializer": "bytes", "value_deserializer": "bytes"}
    readings = app.topic(job.readings, **as_bytes)
    forecasts = app.topic(job.forecasts, key_serializer="bytes", value_serializer="bytes")

    def forecast(value: bytes, stay_id: bytes, _timestamp: int, _headers: object, state: State) -> bytes | None:
        place = message_context()
        stay = remembered.find(stay_id, state.get_bytes("head"), state.get_bytes("body"))
        message = core.take(stay, value, place.partition, place.offset)
        if message is not None:
            head = stay.encode_head()
            state.set_bytes("head", head)
            if stay.has_new_body:
                state.set_bytes("body", stay.encode_body())
            remembered.keep(stay_id, head, stay)
        return message

    stream = app.dataframe(readings).apply(forecast, stateful=True, metadata=True)
    stream.filter(lambda message: message is not None).to_topic(forecasts)
    app.run()


if __name__ == "__main__":
    main(Job.from_argument())
