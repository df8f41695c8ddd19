"""The chaos harness as a whole: what it reports, what the command takes, and short runs of it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import chaos
from benchmarks.__main__ import main
from benchmarks.chaos.plan import steps_of
from benchmarks.chaos.recovery import Durable, Recoveries
from benchmarks.chaos.verdict import Verdict
from benchmarks.kafka import unavailable
from benchmarks.report import BenchmarkError, Options
from streams.guarantee import Guarantee

ROOT = Path(__file__).resolve().parents[1]
EXACTLY = Guarantee(changelog=True, exactly_once=True)


# Reports


def result_of(verdict: Verdict, *problems: str) -> chaos.Result:
    recoveries = Recoveries(Durable())
    recoveries.note("engine: kill -9", {})
    recoveries.look(str)
    recoveries.seconds = [("a", 1.0), ("b", 4.0), ("c", 2.0)]
    choice = chaos.Choice(7, 3, 2, "kafka", "exactly_once")
    return chaos.Result(choice, verdict, recoveries, list(problems), 1_000, 50)


def test_the_report_has_the_keys_of_the_contract() -> None:
    report = chaos.summarise(result_of(Verdict(repeats=3)))
    assert report.problems == []
    wanted = {"seed": 7, "faults": 1, "lost": 0, "applied_twice": 0, "duplicate_outputs": 0}
    wanted |= {"stalls": 0, "max_recovery_seconds": 4}
    assert {name: report.figures[name] for name in wanted} == wanted
    assert report.figures["slowest_recovery"] == "b"
    assert report.figures["faults_by_kind"] == {"engine: kill -9": 1}


@pytest.mark.parametrize("count", ["lost", "applied_twice", "duplicate_outputs"])
def test_a_count_that_is_not_zero_makes_the_run_invalid(count: str) -> None:
    verdict = replace(Verdict(), **{count: 2}, differences=["customer ada: clicks"])
    report = chaos.summarise(result_of(verdict))
    assert report.problems == [f"{count} is 2", "customer ada: clicks"]


def test_a_worker_that_broke_makes_the_run_invalid() -> None:
    assert chaos.summarise(result_of(Verdict(), "worker-0 ended")).problems == ["worker-0 ended"]


def options(**chosen: Any) -> Options:
    return Options(quick=True, seed=1, tell=lambda _: None, chosen=chosen)


def test_the_embedded_broker_cannot_promise_exactly_once() -> None:
    with pytest.raises(BenchmarkError, match="no transactions"):
        chaos.Choice.of(options(broker="embedded", guarantee="exactly_once"))
    assert chaos.Choice.of(options(broker="embedded")).guarantee is None
    assert chaos.Choice.of(options()).guarantee == "exactly_once"


def test_another_benchmark_refuses_the_flags_of_this_one() -> None:
    answer = CliRunner().invoke(main, ["transport", "--faults", "3"])
    assert answer.exit_code == 2
    assert "transport does not take --faults" in answer.output


# The whole


def run_chaos(*flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", "chaos", "--quick", "--json", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert done.stderr == b""
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.kafka
@pytest.mark.timeout(600)
def test_a_quick_run_on_apache_kafka_finds_nothing_wrong() -> None:
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    answer = run_chaos("--seed", "1")
    assert answer["guarantee"] == "exactly_once"
    assert answer["faults"] == chaos.QUICK_FAULTS
    assert (answer["lost"], answer["applied_twice"], answer["duplicate_outputs"]) == (0, 0, 0)
    assert answer["stalls"] == 0
    struck = " ".join(name for name in answer["faults_by_kind"] if name.startswith("engine"))
    assert all(f"({step})" in struck for step in steps_of(EXACTLY))


@pytest.mark.timeout(600)
def test_a_tiny_run_on_the_embedded_broker_finds_nothing_wrong() -> None:
    answer = run_chaos("--seed", "2", "--broker", "embedded", "--faults", "6", "--workers", "1")
    assert answer["faults"] == 6
    assert (answer["lost"], answer["applied_twice"], answer["duplicate_outputs"]) == (0, 0, 0)
    assert answer["records"] > 500
