import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import rounds
from benchmarks.latency import latencies_of, summary_of
from benchmarks.listener import Heard
from benchmarks.processes import Child
from benchmarks.report import BenchmarkError, Spread, quantile
from benchmarks.rounds import wait_until_drained
from benchmarks.scrape import Sample, WorkerClient, parse

METRICS = """\
# HELP crm_events_total Events applied
# TYPE crm_events_total counter
crm_events_total{topic="clicks"} 90.0
crm_events_total{topic="chats"} 10.0
crm_events_created{topic="clicks"} 1.7e+09
crm_consumer_lag{topic="clicks",partition="0"} 3.0
crm_consumer_lag{topic="chats",partition="1"} 0.0
crm_lists_owed 2.0
crm_outputs_total{topic="recommendations"} 41.0
crm_events_rejected_total{topic="clicks",stage="decode",reason="json"} 1.0
crm_worker_ready 1.0
"""


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_the_smallest_value_that_covers_its_share(
    values: list[float], q: float
) -> None:
    found = quantile(values, q)
    assert found in values
    assert found is not None
    assert np.mean(np.array(values) <= found) >= q - 1e-9
    assert np.mean(np.array(values) < found) < q


def test_a_spread_has_the_median_and_the_range() -> None:
    spread = Spread.of([3.0, 10.0, 1.0])
    assert (spread.median, spread.low, spread.high) == (3.0, 1.0, 10.0)
    assert spread.shown(scale=1_000, unit=" ms") == "3,000 (1,000-10,000) ms"


def test_latency_is_from_the_trigger_to_the_arrival() -> None:
    heard = Heard(
        customers=["ada", "ada", "bob", "ada"],
        event_ids=["backlog", "1", "2", "3"],
        arrived_ms=[1_000.0, 2_400.0, 2_500.0, 4_000.0],
    )
    found = latencies_of(heard, {"1": 1_900, "2": 2_450, "3": 3_500}, every_ms=1_000)
    assert found.all_lists.tolist() == [0.5, 0.05, 0.5]
    # The list of event 1 came after one of the backlog, 0.9 s before it was sent.
    assert found.not_held.tolist() == [0.05, 0.5]
    assert summary_of(found.all_lists) == {"p50": 0.5, "p99": 0.5, "max": 0.5, "lists": 3}
    assert summary_of(np.empty(0)) == {"p50": None, "p99": None, "max": None, "lists": 0}


def test_the_metrics_of_a_worker_are_read() -> None:
    sample = parse(METRICS)
    assert sample == Sample(
        ready=True,
        events={"clicks": 90.0, "chats": 10.0},
        lag=3.0,
        owed=2.0,
        outputs={"recommendations": 41.0},
        rejected=1.0,
        duplicates=0.0,
    )
    assert sample.applied == 100
    assert replace(sample, events={"catalog": 7.0, "chats": 1.0}).applied == 1
    assert not sample.is_drained(100)
    assert replace(sample, lag=0.0, owed=0.0).is_drained(100)
    assert not replace(sample, lag=0.0, owed=0.0).is_drained(101)


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, body = {
            "/metrics": (200, METRICS),
            "/v1/customers/ada%2F1": (200, '{"clicks": 2}'),
            "/v1/customers/bob": (404, '{"error": {}}'),
        }.get(self.path, (500, "broken"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextmanager
def web_server() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_worker_is_asked_over_rest() -> None:
    with web_server() as port:
        client = WorkerClient(port)
        assert client.sample() == parse(METRICS)
        assert client.profile("ada/1") == {"clicks": 2}
        assert client.profile("bob") is None
        with pytest.raises(BenchmarkError, match="answered 500"):
            client.profile("eve")
        client.close()
    assert client.sample() is None
    with pytest.raises(BenchmarkError, match="does not answer"):
        client.profile("ada/1")


class ScriptedClient:
    """Answers one scripted sample a call; the last one again and again."""

    def __init__(self, *samples: Sample | None) -> None:
        self.samples = list(samples)

    def sample(self) -> Sample | None:
        return self.samples.pop(0) if len(self.samples) > 1 else self.samples[0]


class LivingChild:
    def require_alive(self) -> None:
        pass


def drain(client: ScriptedClient, expected: int, before: float) -> rounds.Drain:
    return wait_until_drained(
        cast(WorkerClient, client), cast(Child, LivingChild()), expected, before
    )


def reading(applied: float, lag: float = 0, owed: float = 0) -> Sample:
    return replace(parse(""), events={"clicks": applied}, lag=lag, owed=owed)


def test_the_clock_of_a_drain_starts_with_the_first_events_and_stops_when_nothing_is_owed() -> None:
    client = ScriptedClient(
        None, reading(0), reading(40, 60), reading(100, 0, 9), reading(100, 0, 3), reading(100)
    )
    found = drain(client, 100, 0)
    assert found.first_seen == 40
    assert found.last == reading(100)
    assert 0 < found.applied_seconds < found.drained_seconds
    assert found.waited_seconds > 0


def test_a_worker_that_stalls_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "STALL_SECONDS", 0.2)
    with pytest.raises(BenchmarkError, match="nothing moved"):
        drain(ScriptedClient(reading(40, 60)), 100, 0)
