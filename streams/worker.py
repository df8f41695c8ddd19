"""One worker from start to end: probes, the Faust worker, an orderly shutdown."""

from __future__ import annotations

import asyncio
import faulthandler
import fcntl
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import faust
from aiokafka import AIOKafkaProducer

from state.arrays import ArrayStore
from streams import __version__, duties
from streams.admin import check_topics, tombstones_ms, wait_for_broker
from streams.allocator import limit_arenas
from streams.app import CrmApp, build_app
from streams.compacted_reader import CompactedReader
from streams.decode import decode_catalog_item
from streams.engine import Engine
from streams.errors import DataDirectoryError, PortInUseError, WorkerCrashError
from streams.guarantee import find_guarantee
from streams.loading import Promise
from streams.loops import LoopPolicy
from streams.metrics import Metrics
from streams.model_sync import ModelSync, Pace
from streams.model_topic import ModelTopic
from streams.outbox import Publisher
from streams.ports import free_port
from streams.rules import decode_rule
from streams.settings import Settings
from streams.steps import OnStep, go_on
from streams.topics import ALL, CATALOG, CHANGELOG, MODELS, RULES
from streams.warmup import compile_kernels
from streams.watchdog import Watchdog
from streams.web import add_pages

log = logging.getLogger(__name__)

GC_THRESHOLDS = (50_000, 20, 50)
LOG_FORMAT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
BATCH_BYTES = 512 << 10
REQUEST_BYTES = 8 << 20


@contextmanager
def locked_directory(settings: Settings) -> Iterator[None]:
    """Hold the data directory for this process.

    Raises
    ------
    DataDirectoryError
        Where it cannot be written, or another worker holds it.
    """
    path = settings.data_dir
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / "lock").open("w")
    except OSError as error:
        raise DataDirectoryError(f"data directory {path} is not writable: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataDirectoryError(
                f"data directory {path} is in use by another worker; give this one its own "
                "with --data-dir"
            ) from error
        yield


def web_port_of(settings: Settings) -> int:
    """Find out before Faust does whether the web port is free; for 0, find one that is.

    Raises
    ------
    PortInUseError
        Where it is not.
    """
    try:
        return free_port(settings.web_host, settings.web_port)
    except OSError as error:
        raise PortInUseError(
            f"cannot listen on {settings.web_host}:{settings.web_port}: {error.strerror}; "
            "choose another with --web-port"
        ) from error


class Worker:
    """Runs one worker in this process, in the foreground.

    Parameters
    ----------
    settings
        The worker's.
    on_ready
        Called once, when the first assigned partitions are open.
    on_step
        Told of every step of opening a partition and of a checkpoint.
    """

    def __init__(
        self,
        settings: Settings,
        on_ready: Callable[[], None] = lambda: None,
        on_step: OnStep = go_on,
    ) -> None:
        self._settings = settings
        self._on_ready = on_ready
        self._on_step = on_step
        self._duties: list[asyncio.Task[None]] = []
        self._services: list[asyncio.Task[None]] = []

    def run(self) -> None:
        """Run until SIGTERM or SIGINT; then checkpoint and leave the group.

        Raises
        ------
        StreamsError
            Where the worker cannot start.
        Exception
            What ended the worker, where it could not go on.
        """
        # A crash in compiled code then tells where it was.
        faulthandler.enable()
        limit_arenas()
        # Until Faust sets its own log up; the level is the same.
        logging.basicConfig(level=self._settings.log_level.upper(), format=LOG_FORMAT)
        self._settings = replace(self._settings, web_port=web_port_of(self._settings))
        with locked_directory(self._settings):
            # By policy, since the consumer's thread makes a loop of its own.
            asyncio.set_event_loop_policy(LoopPolicy())
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            engine = loop.run_until_complete(self._prepare())
            # What was imported and built by now stays; looking through it again and again for
            # garbage would take a tenth of the worker's time.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            app = build_app(self._settings, engine)
            add_pages(app, engine)
            self._add_life(app, engine)
            worker = faust.Worker(
                app,
                loop=loop,
                loglevel=self._settings.log_level,
                quiet=True,
                redirect_stdouts=False,
            )
            worker.spinner = None
            status: object = 0
            try:
                worker.execute_from_commandline()
            except SystemExit as ended:  # how Faust says that it is done, whatever the reason was
                status = ended.code
            if engine.failure is not None:
                raise engine.failure
            if status:
                raise WorkerCrashError(f"the worker crashed: {worker.crash_reason!r}")

    async def _prepare(self) -> Engine:
        settings = self._settings
        cluster_id = await wait_for_broker(settings, on_retry=log.warning)
        await check_topics(settings, [topic.name_of(settings) for topic in ALL])
        guarantee = await find_guarantee(settings)
        log.info("guarantee: %s", guarantee)
        kept_ms = 0
        if guarantee.changelog:
            kept_ms = await tombstones_ms(settings, CHANGELOG.name_of(settings))
        promise = Promise(guarantee, kept_ms, self._on_step)
        compile_kernels(settings)
        self._producer = AIOKafkaProducer(
            bootstrap_servers=settings.bootstrap_servers(),
            client_id=settings.app_id,
            acks="all",
            max_batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES,
            **settings.client_security(),
        )
        await self._producer.start()
        metrics = Metrics(__version__)
        engine = Engine(settings, cluster_id, metrics, Publisher(self._producer, metrics), promise)
        self._sync = ModelSync(
            engine.models,
            ArrayStore(settings.data_dir / "models"),
            ModelTopic(settings, MODELS.name_of(settings), self._producer),
            cluster_id=cluster_id,
            incarnation=uuid4().hex,
            # Whoever has the first partition; nobody does for a moment while it moves.
            leads=lambda: 0 in engine.partitions,
            metrics=metrics,
            pace=Pace(
                settings.models_sync_seconds,
                settings.models_save_seconds,
                settings.models_snapshot_seconds,
            ),
        )
        await self._sync.start()
        models = engine.models
        self._catalog = CompactedReader(
            settings, CATALOG, decode_catalog_item, models.catalog.apply, metrics
        )
        self._rules = CompactedReader(settings, RULES, decode_rule, models.rules.apply, metrics)
        await self._catalog.start()
        await self._rules.start()
        log.info("%d items in the catalogue, %d rules", len(models.catalog), len(models.rules))
        return engine

    def _add_life(self, app: CrmApp, engine: Engine) -> None:
        """Start the duties with the app, and end them in order."""

        @app.task()  # type: ignore[untyped-decorator] # Faust gives it no types
        async def start(*_: Any) -> None:
            delivery = duties.Delivery(engine)
            for duty in (
                delivery.run(),
                duties.checkpoint_until_stopped(engine, delivery),
                duties.walk_until_stopped(engine),
            ):
                self._duties.append(self._begin(engine, duty))
            for service in (
                duties.observe_forever(engine),
                duties.show_recovery(engine),
                Watchdog(engine).run(),
                self._catalog.run(),
                self._rules.run(),
                self._sync.exchange_forever(),
                self._sync.read_forever(),
                self._announce(engine),
                self._end_on_failure(engine),
            ):
                self._services.append(self._begin(engine, service))

        app.on_stopping = self._set_deadline

        @app.on_before_shutdown.connect
        async def stop(*_: Any, **__: Any) -> None:
            await self._stop(engine)

    async def _stop(self, engine: Engine) -> None:
        """Let every duty finish what it has begun, checkpoint, and close.

        A duty is never cancelled: what it holds in its hands would be lost.
        """
        for service in self._services:
            service.cancel()
        engine.stopping.set()
        engine.wake.set()
        try:
            await asyncio.gather(*self._duties, *self._services, return_exceptions=True)
            await engine.checkpoint_all()
            await self._sync.finish(self._settings.shutdown_seconds / 4)
        finally:
            for partition in engine.open_partitions():
                partition.is_open = False
            await engine.stop()
            await self._catalog.stop()
            await self._rules.stop()
            await self._sync.stop()
            await self._producer.stop()

    def _begin(self, engine: Engine, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start something that must not end by itself with an error."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda done: self._on_ended(engine, done))
        return task

    @staticmethod
    def _on_ended(engine: Engine, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            engine.fail(error)

    def _set_deadline(self) -> None:
        """End the process in `shutdown_seconds`, whatever hangs by then."""
        deadline = threading.Timer(self._settings.shutdown_seconds, self._give_up)
        deadline.daemon = True
        deadline.start()

    async def _announce(self, engine: Engine) -> None:
        while not engine.is_ready:
            engine.changed.clear()
            await engine.changed.wait()
        log.info("ready on http://%s:%d", self._settings.web_host, self._settings.web_port)
        self._on_ready()

    async def _end_on_failure(self, engine: Engine) -> None:
        await engine.failed.wait()
        self._set_deadline()
        log.critical("the worker cannot go on: %s", engine.failure)
        os.kill(os.getpid(), signal.SIGTERM)

    @staticmethod
    def _give_up() -> None:
        sys.stderr.write("crm-streams: the shutdown took too long; ending at once\n")
        os._exit(1)
