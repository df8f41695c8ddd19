"""Reads a worker's metrics and REST interface while it works."""

import http.client
import math
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from benchmarks.report import BenchmarkError

TIMEOUT_SECONDS = 20.0
TRAFFIC = ("clicks", "purchases", "chats")
SERIES = re.compile(r"^(crm_[a-z_]+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Sample:
    """What the metrics said at one moment.

    Attributes
    ----------
    ready
        Whether the worker is assigned and recovered.
    events
        Events applied, by topic.
    lag
        Records not yet applied, over all topics and partitions.
    owed
        Lists not yet sent.
    outputs
        Records published, by topic.
    rejected, duplicates
        Events refused or seen before, over all topics.
    """

    ready: bool
    events: dict[str, float]
    lag: float
    owed: float
    outputs: dict[str, float]
    rejected: float
    duplicates: float

    @property
    def applied(self) -> float:
        """Events applied of the topics in `TRAFFIC`: a catalog that was read does not count."""
        return sum(self.events.get(topic, 0.0) for topic in TRAFFIC)

    def is_drained(self, expected: int) -> bool:
        """Tell whether `expected` events are applied and every list owed is paid."""
        return self.applied >= expected and self.lag == 0 and self.owed == 0


def parse(text: str) -> Sample:
    r"""Read the Prometheus text of a worker.

    Examples
    --------
    >>> parse('crm_events_total{topic="clicks"} 7.0\ncrm_lists_owed 2.0\n').owed
    2.0
    """
    series: dict[str, list[tuple[str, float]]] = {}
    for name, labels, value in SERIES.findall(text):
        topic = dict(LABEL.findall(labels)).get("topic", "")
        series.setdefault(name, []).append((topic, float(value)))

    def total(name: str) -> float:
        return math.fsum(value for _, value in series.get(name, []))

    def by_topic(name: str) -> dict[str, float]:
        sums: dict[str, float] = {}
        for topic, value in series.get(name, []):
            sums[topic] = sums.get(topic, 0.0) + value
        return sums

    return Sample(
        ready=total("crm_worker_ready") == 1,
        events=by_topic("crm_events_total"),
        lag=total("crm_consumer_lag"),
        owed=total("crm_lists_owed"),
        outputs=by_topic("crm_outputs_total"),
        rejected=total("crm_events_rejected_total"),
        duplicates=total("crm_events_duplicate_total"),
    )


class WorkerClient:
    """Asks one worker on loopback over one kept connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _get(self, path: str) -> tuple[int, bytes] | None:
        try:
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return None

    def sample(self) -> Sample | None:
        """Return the metrics of now; None where the worker does not answer (yet)."""
        answer = self._get("/metrics")
        if answer is None or answer[0] != http.client.OK:
            return None
        return parse(answer[1].decode())

    def partitions(self) -> set[int]:
        """Return the partitions that are open; empty where not all of its own are."""
        answer = self._get("/readyz")
        if answer is None or answer[0] != http.client.OK:
            return set()
        return set(orjson.loads(answer[1])["partitions"])

    def profile(self, customer: str) -> dict[str, Any] | None:
        """Return a customer's profile; None where the worker does not know the customer.

        Raises
        ------
        BenchmarkError
            For any other answer, or none.
        """
        answer = self._get(f"/v1/customers/{quote(customer, safe='')}")
        if answer is None:
            raise BenchmarkError("the worker does not answer over REST")
        status, body = answer
        if status == http.client.NOT_FOUND:
            return None
        if status != http.client.OK:
            raise BenchmarkError(f"GET /v1/customers/{customer} answered {status}: {body[:200]!r}")
        profile: dict[str, Any] = orjson.loads(body)
        return profile
