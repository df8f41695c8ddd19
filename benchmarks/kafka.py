"""Apache Kafka on this machine, without Docker: one broker from the jars of its Maven release.

For what the embedded broker cannot show: transactions, compaction, records that outlive their
broker. One node is broker and controller at once (KRaft), listens on 127.0.0.1 and keeps its data
in a temporary directory. Needs Java 17, and Maven where ``tests/kafka/pom.xml`` is newer than the
jars beside it. Alone, in the foreground: ``python -m benchmarks.kafka [--port P]``.
"""

import asyncio
import base64
import contextlib
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import click

from benchmarks.kafka_jars import copy_jars, java_command, last_lines, run_to_end
from benchmarks.kafka_jars import unavailable as unavailable  # who uses the broker asks here
from streams.admin import cluster_id
from streams.errors import BrokerError, BrokerStartError, StreamsError
from streams.ports import free_port
from streams.settings import DEFAULT_PORT, Settings

HOST = "127.0.0.1"
START_TIMEOUT_SECONDS = 90.0
STOP_TIMEOUT_SECONDS = 20.0

_FORMAT_TIMEOUT_SECONDS = 60.0
_PORT_ATTEMPTS = 5
_POLL_SECONDS = 0.05
# The broker must not outlive this process, however it ends, nor must its data. A shell beside it
# waits on a pipe whose other end only this process has: a line says that all is well, and the
# pipe's end without one, that this process was killed. ($$ is what becomes the broker. A shell
# gives what it runs in the background an empty standard input, hence the descriptor 3.)
_SUPERVISOR = """
directory=$1; shift
exec 3<&0 </dev/null
(
    exec >/dev/null 2>&1
    read -r _ <&3 || { kill -KILL $$; sleep 1; rm -rf "$directory"; }
) &
exec "$@" 3<&-
"""

_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    # After a kill -9 the controller takes the new broker only when the old one's session is over:
    # with the default of 9 seconds a restart takes 13.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # The default takes a sixth of the heap; this much holds 1.2 million keys.
    "log.cleaner.dedupe.buffer.size": str(32 << 20),
    # What a deleted topic held goes soon.
    "log.segment.delete.delay.ms": "1000",
}


class KafkaBroker:
    """One broker of Apache Kafka on loopback; an async context manager, or `start` and `close`.

    The first start makes a new, empty cluster. After `stop` or `kill`, `start` goes on with the
    same data at the same port. `close`, and the end of the context, remove the data.

    Parameters
    ----------
    port
        Port to listen on; 0 takes a free one.
    session_timeout_min_ms
        The shortest session timeout that a member of a consumer group may ask for
        (``group.min.session.timeout.ms``).
    properties
        Further settings of the broker, by Kafka's names; they win over the ones chosen here.

    Examples
    --------
    >>> async def show() -> None:
    ...     async with KafkaBroker(properties={"num.partitions": "3"}) as broker:
    ...         await broker.kill()
    ...         await broker.start()
    """

    def __init__(
        self,
        port: int = 0,
        *,
        session_timeout_min_ms: int = 1_000,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        self._wanted_port = port
        self._port = 0
        self._properties = {
            **_PROPERTIES,
            "group.min.session.timeout.ms": str(session_timeout_min_ms),
            **(properties or {}),
        }
        self._cluster_id = ""
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The broker's address, as the setting `broker` takes it."""
        assert self._port, "the broker was not started"
        return f"kafka://{HOST}:{self._port}"

    @property
    def port(self) -> int:
        """The port that it listens on; 0 before the first start."""
        return self._port

    @property
    def cluster_id(self) -> str:
        """The cluster's id, the same after a restart; empty before the first start."""
        return self._cluster_id

    @property
    def pid(self) -> int:
        """The id of the broker's process, as for a signal to it."""
        assert self._process is not None, "the broker does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the broker's process is there."""
        return self._process is not None and self._process.poll() is None

    def last_words(self) -> str:
        """Return the end of the broker's log as one line, stack traces left out."""
        return last_lines(self._log.read_bytes())

    async def start(self) -> None:
        """Start the broker and return when it answers.

        Raises
        ------
        BrokerStartError
            Where there is no Java or Maven, with the end of Kafka's own log where it does not
            come up. The data of an earlier start are kept.
        """
        assert not self.running, "the broker runs already"
        if self._directory is not None:
            await self._run()
            return
        await asyncio.to_thread(copy_jars)
        # Between finding a port free and listening on it, somebody else may take it.
        for attempts_left in reversed(range(1 if self._wanted_port else _PORT_ATTEMPTS)):
            try:
                await self._start_anew()
            except _PortTakenError:
                if not attempts_left:
                    raise
            else:
                return

    async def wait(self) -> None:
        """Return when the broker's process has ended, be it by `stop` or by itself."""
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)

    async def stop(self) -> None:
        """End the broker in order, and keep its data; without effect where none runs.

        One that does not end within `STOP_TIMEOUT_SECONDS` is killed.
        """
        if self._process is not None:
            await asyncio.to_thread(_end, self._process, signal.SIGTERM)

    async def kill(self) -> None:
        """End the broker as a crash does (SIGKILL), and keep its data."""
        if self._process is not None:
            await asyncio.to_thread(_end, self._process, signal.SIGKILL)

    async def close(self) -> None:
        """End the broker and remove its data; the next start makes a new cluster."""
        await self.kill()  # nothing of it needs to be saved
        if self._directory is not None:
            await asyncio.to_thread(shutil.rmtree, self._directory)
            self._directory = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def _home(self) -> Path:
        assert self._directory is not None, "the broker was not started"
        return self._directory

    @property
    def _log(self) -> Path:
        return self._home / "log"

    async def _start_anew(self) -> None:
        try:
            self._port = free_port(HOST, self._wanted_port)
            controller_port = free_port(HOST)
        except OSError as error:
            text = f"port {self._wanted_port} cannot be had: {error.strerror}"
            raise _PortTakenError(text) from error
        if controller_port == self._port:
            raise _PortTakenError(f"port {self._port} is taken by its own controller")
        # 16 bytes in base64, as Kafka wants it; not beginning with a dash, which its tool would
        # take for an option.
        identity = b"\0" + secrets.token_bytes(15)
        self._cluster_id = base64.urlsafe_b64encode(identity).decode().rstrip("=")
        self._directory = Path(tempfile.mkdtemp(prefix="crm-kafka-"))
        try:
            self._write_properties(controller_port)
            await asyncio.to_thread(self._format)
            await self._run()
        except BaseException:
            await self.close()
            raise

    def _write_properties(self, controller_port: int) -> None:
        client, controller = f"{HOST}:{self._port}", f"{HOST}:{controller_port}"
        properties = {
            "listeners": f"PLAINTEXT://{client},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{client}",
            "controller.quorum.voters": f"1@{controller}",
            "log.dirs": str(self._home / "data"),
            **self._properties,
        }
        lines = [f"{name}={value}\n" for name, value in properties.items()]
        (self._home / "server.properties").write_text("".join(lines))

    def _format(self) -> None:
        """Make the node's storage ready; it then carries the cluster's id."""
        properties = str(self._home / "server.properties")
        arguments = ("format", "-t", self._cluster_id, "-c", properties)
        command = java_command("kafka.tools.StorageTool", *arguments)
        run_to_end("Kafka's storage cannot be formatted", command, _FORMAT_TIMEOUT_SECONDS)

    async def _run(self) -> None:
        # Where it ended by itself, the shell beside it waits still.
        await self.stop()
        self._process = self._launch()
        try:
            await self._wait_until_it_answers()
        except BaseException:
            await self.kill()
            raise

    def _launch(self) -> subprocess.Popen[bytes]:
        command = java_command("kafka.Kafka", str(self._home / "server.properties"))
        with self._log.open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - Kafka and our own values
                ["/bin/sh", "-c", _SUPERVISOR, "sh", str(self._home), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Else Ctrl-C in a terminal would end it before its clients.
                start_new_session=True,
            )

    async def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while self.running and time.monotonic() < deadline:
            if await self._answers():
                return
            await asyncio.sleep(_POLL_SECONDS)
        if b"Address already in use" in self._log.read_bytes():
            raise _PortTakenError(f"a port of Kafka is taken: {self.last_words()}")
        reason = "does not answer" if self.running else "ended while starting"
        raise BrokerStartError(f"Kafka {reason}: {self.last_words()}")

    async def _answers(self) -> bool:
        # The port first: a client that cannot connect says so in the log.
        if not _listens(self._port):
            return False
        try:
            return await cluster_id(Settings(broker=self.url), 5) == self._cluster_id
        except BrokerError:
            return False


class _PortTakenError(BrokerStartError):
    """Somebody else listens on one of the ports."""


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal the broker and wait for its end; kill it where that does not come."""
    process.send_signal(number)
    try:
        process.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdin is not None
    if not process.stdin.closed:
        # All is well: the shell beside it may go, and the data stay.
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(b"\n")


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port on 127.0.0.1; 0 takes a free one.",
)
def main(port: int) -> None:
    """Run Apache Kafka in the foreground until Ctrl-C or SIGTERM; prints its URL when it is up.

    Its data end with it.
    """
    try:
        asyncio.run(_serve(port))
    except StreamsError as error:
        raise click.ClickException(str(error)) from error


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with KafkaBroker(port) as broker:
        click.echo(broker.url)
        ended = asyncio.ensure_future(broker.wait())
        asked = asyncio.ensure_future(stopped.wait())
        await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not stopped.is_set():
            raise BrokerError(f"Kafka ended: {broker.last_words()}")
        asked.cancel()
        await broker.stop()
        await ended


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.kafka")
