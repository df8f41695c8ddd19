"""Child processes of a benchmark: started, watched, measured and always ended."""

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.report import BenchmarkError

STOP_SECONDS = 60.0


def peak_memory_of(status: str) -> int | None:
    r"""Read the peak resident size in bytes from the text of ``/proc/PID/status``.

    Examples
    --------
    >>> peak_memory_of("Name: x\nVmHWM:\t  2048 kB\n")
    2097152
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


class Child:
    """A Python process that runs a module, and that ends with the ``with`` block.

    Parameters
    ----------
    name
        For messages, and for the name of its log.
    arguments
        What follows ``python -m``.
    logs
        Directory for its log: its standard error, and its output unless `piped`.
    piped
        Whether its standard input and output are for `send_line` and `read_line`.
    """

    def __init__(self, name: str, arguments: list[str], logs: Path, *, piped: bool = False) -> None:
        self.name = name
        self._log = logs / f"{name}.log"
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(  # noqa: S603 - a module of this project
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._popen.pid

    def require_alive(self) -> None:
        """Raise `BenchmarkError` with the end of its log where the process has ended."""
        status = self._popen.poll()
        if status is not None:
            raise BenchmarkError(f"{self.name} ended with status {status}: {self.last_words()}")

    def last_words(self) -> str:
        """Return the end of the log as one line."""
        lines = self._log.read_text(errors="replace").strip().splitlines()[-5:]
        return " | ".join(lines) or "it printed nothing"

    def peak_memory_bytes(self) -> int | None:
        """Return the peak resident memory of the process; None where the system has no /proc."""
        try:
            return peak_memory_of(Path(f"/proc/{self.pid}/status").read_text())
        except OSError:
            return None

    def send_line(self, text: str) -> None:
        """Write a line to its standard input."""
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(text.encode() + b"\n")
            self._popen.stdin.flush()
        except BrokenPipeError:
            self.require_alive()

    def read_line(self) -> bytes:
        """Read a line of its standard output.

        Raises
        ------
        BenchmarkError
            Where it ended instead.
        """
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line.endswith(b"\n"):
            self._popen.wait()
            self.require_alive()
        return line

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> int:
        """Ask the process to end (SIGTERM), wait, and return its exit status.

        Raises
        ------
        BenchmarkError
            Where it does not end in time.
        """
        self._popen.send_signal(signal.SIGTERM)
        try:
            return self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(
                f"{self.name} did not end within {timeout_seconds:g} seconds of SIGTERM"
            ) from None


@contextlib.contextmanager
def broker(logs: Path) -> Iterator[str]:
    """Run ``crm-streams broker`` and give its URL; ends it afterwards."""
    with _broker("broker", ["streams", "broker", "--port", "0"], logs) as url:
        yield url


@contextlib.contextmanager
def kafka(logs: Path) -> Iterator[str]:
    """Run Apache Kafka and give its URL; ends it afterwards."""
    with _broker("kafka", ["benchmarks.kafka"], logs) as url:
        yield url


@contextlib.contextmanager
def _broker(name: str, arguments: list[str], logs: Path) -> Iterator[str]:
    with Child(name, arguments, logs, piped=True) as child:
        # It prints its URL once it answers.
        yield child.read_line().decode().strip()
        child.stop()
