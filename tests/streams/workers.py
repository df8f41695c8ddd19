"""A real worker in a process of its own, and what a test says to it and hears from it."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import urlopen

from aiokafka import AIOKafkaProducer

from streams.ports import free_port
from streams.reading import read_to_end
from streams.settings import Settings

START_TS_MS = 1_700_000_000_000
PARTITIONS = 4
WAIT_SECONDS = 60.0

Record = Mapping[str, Any] | bytes | None
Sent = tuple[str, str | bytes | None, Record]
Event = tuple[str, str, dict[str, Any]]


STARTED: list[subprocess.Popen[bytes]] = []
COMPILE = (
    "from streams.settings import Settings; from streams.warmup import compile_kernels; "
    "compile_kernels(Settings())"
)


@functools.cache
def compile_kernels_once() -> None:
    """Compile what the first worker on a machine would compile, for however long that takes."""
    subprocess.run([sys.executable, "-c", COMPILE], check=True, capture_output=True)


def end_workers_started_after(count: int) -> None:
    """Kill what a test has left running: it would go on in the next test's group."""
    for process in STARTED[count:]:
        if process.poll() is None:
            process.kill()
            process.wait()
    del STARTED[count:]


class WorkerProcess:
    """``crm-streams worker``, or a script that runs one, with settings from the environment."""

    def __init__(
        self,
        broker_url: str,
        data_dir: Path,
        command: Sequence[str] = ("-m", "streams", "worker"),
        **settings: object,
    ) -> None:
        self.port = free_port()
        self.data_dir = data_dir
        self.log_path = data_dir.parent / f"worker-{self.port}.log"
        self._command = [sys.executable, *command]
        chosen = {
            "broker": broker_url,
            "data_dir": data_dir,
            "web_port": self.port,
            "partitions": PARTITIONS,
            "session_timeout_seconds": 4,
            "rebalance_timeout_seconds": 3,
            **settings,
        }
        self._environment = {
            **os.environ,
            **{f"CRM_{name.upper()}": str(value) for name, value in chosen.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "WorkerProcess":
        compile_kernels_once()
        with self.log_path.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=output, env=self._environment
            )
        STARTED.append(self._process)
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                body = answer.read()
                status = answer.status
        except HTTPError as error:
            with error:
                body, status = error.read(), error.code
        return status, json.loads(body) if body[:1] in (b"{", b"[") else body.decode()

    def profile(self, customer: str) -> dict[str, Any]:
        status, profile = self.get(f"/v1/customers/{quote(customer, safe='')}")
        assert status == 200, (status, profile)
        assert isinstance(profile, dict)
        return profile

    def metric(self, name: str, **labels: str) -> float:
        """Sum the samples of a series that carry `labels`."""
        _, text = self.get("/metrics")
        total = 0.0
        for line in text.splitlines():
            series, _, value = line.rpartition(" ")
            wanted = all(f'{label}="{value}"' in series for label, value in labels.items())
            if series.partition("{")[0] == name and wanted:
                total += float(value)
        return total

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; a worker that ended or takes too long fails the test."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            status = self.process.poll()
            assert status is None, f"the worker ended with {status}:\n{self.log[-3000:]}"
            with contextlib.suppress(URLError, ConnectionError, TimeoutError):
                if condition():
                    return
            time.sleep(0.05)
        raise AssertionError(f"{what}: not within {WAIT_SECONDS} s\n{self.log[-3000:]}")

    def ready(self) -> "WorkerProcess":
        self.until("ready", lambda: self.get("/readyz")[0] == 200)
        return self

    def applied(self, count: int) -> None:
        """Wait until `count` events are applied and every list owed is paid."""
        self.until(
            f"{count} events applied",
            lambda: (
                sum(self.metric("crm_events_total", topic=t) for t in EVENT_TOPICS) >= count
                and self.metric("crm_lists_owed") == 0
            ),
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


EVENT_TOPICS = ("clicks", "purchases", "chats")


@contextlib.contextmanager
def running(worker: WorkerProcess) -> Iterator[WorkerProcess]:
    """Run a worker for as long as the block lasts."""
    worker.start()
    try:
        yield worker.ready()
    finally:
        worker.stop()


async def send(broker_url: str, records: Iterable[Sent], partition: int | None = None) -> None:
    """Produce (topic, key, value) records and wait until the broker has them."""
    producer = AIOKafkaProducer(bootstrap_servers=broker_url.removeprefix("kafka://"))
    await producer.start()
    try:
        receipts = []
        for topic, key, value in records:
            encoded = key.encode() if isinstance(key, str) else key
            body = json.dumps(value).encode() if isinstance(value, Mapping) else value
            receipts.append(await producer.send(topic, body, key=encoded, partition=partition))
        await asyncio.gather(*receipts)
    finally:
        await producer.stop()


async def read(broker_url: str, topic: str) -> list[dict[str, Any]]:
    """Read everything that is in a topic by now."""
    settings = Settings(broker=broker_url)
    return [json.loads(record.value) async for record in read_to_end(settings, topic)]


def click(customer: str, number: int, item: str = "mug", **fields: Any) -> Event:
    record = {
        "event_id": f"c-{customer}-{number}",
        "customer_id": customer,
        "ts": START_TS_MS + number * 1000,
        "action": "view",
        "item_id": item,
        **fields,
    }
    return "clicks", customer, record


def order(customer: str, number: int, *lines: tuple[str, int, float]) -> Event:
    items = [
        {"item_id": item, "quantity": quantity, "unit_price": price}
        for item, quantity, price in lines
    ]
    record = {
        "event_id": f"p-{customer}-{number}",
        "customer_id": customer,
        "ts": START_TS_MS + number * 1000,
        "items": items,
    }
    return "purchases", customer, record


def chat(customer: str, number: int, text: str, **fields: Any) -> Event:
    record = {
        "event_id": f"t-{customer}-{number}",
        "customer_id": customer,
        "ts": START_TS_MS + number * 1000,
        "text": text,
        **fields,
    }
    return "chats", customer, record


def reaction(customer: str, number: int, outcome: str, item: str | None, **fields: Any) -> Event:
    record = {
        "event_id": f"f-{customer}-{number}",
        "customer_id": customer,
        "ts": START_TS_MS + number * 1000,
        "outcome": outcome,
        **({} if item is None else {"item_id": item}),
        **fields,
    }
    return "feedback", customer, record
