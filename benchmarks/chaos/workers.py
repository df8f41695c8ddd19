"""Worker processes of a chaos run: started on a disk, signalled, asked over HTTP."""

import contextlib
import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.report import BenchmarkError
from streams.ports import free_port
from streams.settings import environment_with
from streams.steps import Step

HTTP_SECONDS = 5.0
PATIENCE_SECONDS = 20.0
RETRY_SECONDS = 0.2
STOP_SECONDS = 40.0
LAST_LINES = 6
# A worker must not outlive this process, however it ends. A shell beside it waits on a pipe whose
# other end only this process has: a line says that all is well, and the pipe's end without one,
# that this process was killed. ($$ is what becomes the worker.)
_SUPERVISOR = """
exec 3<&0 </dev/null
( exec >/dev/null 2>&1; read -r _ <&3 || kill -KILL $$ ) &
exec "$@" 3<&-
"""
LAG = re.compile(r'^crm_consumer_lag\{partition="(\d+)",topic="[^"]*"\} (\S+)$', re.MULTILINE)
OWED = re.compile(r"^crm_lists_owed (\S+)$", re.MULTILINE)


class WorkerProcess:
    """One worker with a disk, a port and a log of its own, started again and again.

    Parameters
    ----------
    name
        For messages and for the log's name.
    settings
        By field name; the directory, the port and the standby are the worker's own.
    home
        Where disk and log are.
    standby
        Whether it keeps copies of others' partitions.
    """

    def __init__(
        self, name: str, settings: Mapping[str, Any], home: Path, *, standby: bool
    ) -> None:
        self.name = name
        self.disk = home / name
        self.log = home / f"{name}.log"
        self.port = free_port()
        own = {"data_dir": self.disk, "web_port": self.port, "standby": int(standby)}
        self._environment = environment_with({**settings, **own})
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self, step: Step | None = None, number: int = 0, times: int = 0) -> None:
        """Start it; with a step, it sends itself the signal when that comes the n-th time."""
        command = ["streams", "worker"]
        if step is not None:
            command = ["benchmarks.chaos.worker", step, str(number), str(times)]
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(  # noqa: S603 - a module of this project
                ["/bin/sh", "-c", _SUPERVISOR, "sh", sys.executable, "-m", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    @property
    def is_up(self) -> bool:
        """Whether its process is there."""
        return self._popen is not None and self._popen.poll() is None

    def take_status(self) -> int | None:
        """Return how it ended, once; None where it has not, or where that was told already."""
        status = None if self._popen is None else self._popen.poll()
        if status is not None:
            self._forget()
        return status

    def _forget(self) -> None:
        """Let the shell beside it go."""
        assert self._popen is not None
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._popen.stdin as line:
            line.write(b"\n")
        self._popen = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self._popen is not None:
            self._popen.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
            self._forget()

    def stop(self) -> int | None:
        """End it in order and return its status; None where it does not run.

        Raises
        ------
        BenchmarkError
            Where it does not end.
        """
        if self._popen is None:
            return None
        self._popen.send_signal(signal.SIGTERM)
        try:
            status = self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{self.name} does not end: {self.last_words()}") from None
        self._forget()
        return status

    def lose_disk(self) -> None:
        """Remove everything it has stored."""
        shutil.rmtree(self.disk, ignore_errors=True)

    def last_words(self) -> str:
        """Return the end of its log as one line."""
        if not self.log.exists():
            return "it printed nothing"
        lines = self.log.read_text(errors="replace").strip().splitlines()[-LAST_LINES:]
        return " | ".join(lines) or "it printed nothing"

    # Over HTTP.

    def _get(self, path: str) -> tuple[int, bytes] | None:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HTTP_SECONDS)
        try:
            line.request("GET", path)
            answer = line.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            line.close()

    def partitions(self) -> set[int] | None:
        """Return the partitions that are open on it; None where it is not ready."""
        answer = self._get("/readyz") if self.is_up else None
        if answer is None or answer[0] != http.client.OK:
            return None
        return set(json.loads(answer[1])["partitions"])

    def waiting(self) -> float | None:
        """Return how many records and lists wait in its partitions; None where it does not tell."""
        mine = self.partitions() or ()
        answer = self._get("/metrics")
        if answer is None or answer[0] != http.client.OK:
            return None
        text = answer[1].decode()
        lags = sum(float(lag) for number, lag in LAG.findall(text) if int(number) in mine)
        return lags + sum(map(float, OWED.findall(text)))

    def profile(self, customer: str) -> dict[str, Any] | None:
        """Return the profile of a customer, whoever holds it; None where nobody knows them.

        Raises
        ------
        BenchmarkError
            Where it does not tell.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            answer = self._get(f"/v1/customers/{quote(customer, safe='')}")
            if answer is not None and answer[0] == http.client.NOT_FOUND:
                return None
            if answer is not None and answer[0] == http.client.OK:
                profile: dict[str, Any] = json.loads(answer[1])
                return profile
            time.sleep(RETRY_SECONDS)
        raise BenchmarkError(f"{self.name} does not tell of {customer}: {answer}")
