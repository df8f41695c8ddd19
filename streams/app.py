"""The Faust application of a worker: settings in, an app with one agent per source topic out."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any, cast

import faust
from faust.serializers import codecs
from faust.types import TP
from faust.types.transports import TransportT

from streams.engine import Engine
from streams.settings import Settings
from streams.sources import SOURCES
from streams.transport import BatchConsumer, BatchTransport, Chunk

log = logging.getLogger(__name__)

STREAM_BUFFER_CHUNKS = 16
"""Faust counts messages, and a message is a chunk here: 16 of them are plenty."""
COMMIT_SECONDS = 1.0


class _Untouched(codecs.Codec):
    """Hands a chunk through: it is not bytes, so there is nothing to decode."""

    def _loads(self, s: bytes) -> Any:
        return s

    def _dumps(self, s: Any) -> bytes:  # noqa: ARG002 - Faust's signature
        raise TypeError("nothing is sent through Faust's producer")


codecs.register("chunk", _Untouched())


class CrmApp(faust.App):
    """A Faust app whose consumer hands out chunks and commits what the engine made durable."""

    batched_topics = frozenset(SOURCES)

    def __init__(self, *args: Any, engine: Engine, **options: Any) -> None:
        self.engine = engine
        self.on_stopping: Callable[[], None] = lambda: None
        self.chunk_records = engine.settings.chunk_records
        self.chunk_bytes = engine.settings.chunk_bytes
        super().__init__(*args, **options)

    async def on_stop(self) -> None:
        """Stop, by a deadline: Faust first commits, which waits for a broker that is gone."""
        self.on_stopping()
        await super().on_stop()

    def _new_transport(self) -> TransportT:
        return BatchTransport(self.conf.broker_consumer, self)

    @property
    def offsets(self) -> BatchConsumer:
        """The app's consumer, by its own type."""
        return cast(BatchConsumer, self.consumer)

    def next_offsets(self) -> Mapping[TP, int]:
        """Return the next offset to apply of every open topic partition."""
        return self.engine.next_offsets()

    def durable_offset(self, tp: TP) -> int | None:
        """Return the offset up to which everything is durable."""
        return self.engine.durable_offset(tp)


def build_app(settings: Settings, engine: Engine) -> CrmApp:
    """Build the app: its agents, and the hooks by which partitions come and go."""
    app = CrmApp(
        settings.app_id,
        engine=engine,
        broker=settings.broker,
        broker_credentials=credentials(settings),
        store="memory://",
        datadir=str(settings.data_dir / "faust"),
        topic_partitions=settings.partitions,
        topic_disable_leader=True,
        topic_allow_declare=False,
        key_serializer="raw",
        consumer_auto_offset_reset="earliest",
        broker_max_poll_records=2 * settings.chunk_records,
        broker_commit_interval=COMMIT_SECONDS,
        broker_session_timeout=settings.session_timeout_seconds,
        broker_heartbeat_interval=min(1.0, settings.session_timeout_seconds / 3),
        broker_rebalance_timeout=settings.rebalance_timeout_seconds,
        broker_request_timeout=max(40.0, settings.session_timeout_seconds + 1),
        stream_buffer_maxsize=STREAM_BUFFER_CHUNKS,
        # At 0 Faust silently assigns round-robin, and the topics of a partition part ways.
        table_standby_replicas=1,
        web_enabled=True,
        web_bind=settings.web_host,
        web_host=settings.web_host,
        web_port=settings.web_port,
        # How the other workers reach this one, to answer for customers that it holds.
        canonical_url=f"http://{_reachable(settings.web_host)}:{settings.web_port}",
        worker_redirect_stdouts=False,
    )
    for topic in SOURCES:
        add_agent(app, topic, engine)
    add_hooks(app, engine)
    return app


def _reachable(host: str) -> str:
    return socket.gethostname() if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared with


def credentials(settings: Settings) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """Say the same as `Settings.client_security`, in Faust's words."""
    context = settings.ssl_context()
    if settings.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=settings.sasl_password,
            mechanism=settings.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


def add_agent(app: CrmApp, topic: str, engine: Engine) -> None:
    """Add the agent of one source topic, so that an offset has one owner."""

    async def agent(stream: faust.StreamT[Chunk]) -> None:
        async for chunk in stream:
            await engine.process(chunk)

    channel = app.topic(topic, value_type=None, value_serializer="chunk", key_serializer="raw")
    app.agent(channel, name=f"{topic}-agent", concurrency=1)(agent)


def standbys_of(app: CrmApp, settings: Settings) -> set[int]:
    """Return the partitions of which the group wants this worker to keep a copy."""
    if not settings.standby:
        return set()
    return {tp.partition for tp in app.assignor.assigned_standbys() if tp.topic in SOURCES}


def add_hooks(app: CrmApp, engine: Engine) -> None:
    """Checkpoint before partitions go, open them once they have come."""

    @app.on_partitions_revoked.connect
    async def revoked(*_: Any, **__: Any) -> None:
        engine.metrics.rebalances.inc()
        await engine.hand_over()

    @app.on_rebalance_complete.connect
    async def complete(*_: Any, **__: Any) -> None:
        engine.attach(app.offsets)
        assigned = app.offsets.assignment()
        numbers = {
            number
            for number in range(engine.settings.partitions)
            if all(TP(topic, number) in assigned for topic in SOURCES)
        }
        stray = sorted(tp for tp in assigned if tp.topic in SOURCES and tp.partition not in numbers)
        if stray:
            log.error("the topics of a partition went to different workers: %s", stray)
        standbys = standbys_of(app, engine.settings) - numbers
        engine.assign(numbers, standbys, app.consumer_generation_id)
