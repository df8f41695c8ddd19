"""What the guarantees cost: the whole engine on Apache Kafka, three ways side by side.

local
    ``--no-changelog``: checkpoints on the local disk only, outputs sent at once.
at_least_once
    The changelog in transactions, outputs sent at once.
exactly_once
    Changelog and outputs in one transaction per checkpoint and partition.

Every round drains a backlog and then serves a steady load, as the benchmark `pipeline` does (see
there for how throughput, latency and validity are found out), on a Kafka of its own. The three
take turns, so that what else the machine does meets all of them. The listener reads committed
records only. Checkpoints are made every 200 ms.
"""

from __future__ import annotations

from typing import Any

from benchmarks.pipeline import latency_of, latency_row, spread_of
from benchmarks.processes import kafka
from benchmarks.report import Options, Report
from benchmarks.rounds import Round, Scale, Setup, run_round

FULL = Scale(500_000, 50_000, 10_000, 50_000, 10_000, rate=5_000, steady_seconds=20, rounds=3)
QUICK = Scale(40_000, 4_000, 800, 20_000, 5_000, rate=1_000, steady_seconds=4, rounds=1)
WAYS = {
    "local": ("--no-changelog",),
    "at_least_once": ("--guarantee", "at_least_once"),
    "exactly_once": ("--guarantee", "exactly_once"),
}


def run(options: Options) -> Report:
    """Carry out all rounds and summarise them."""
    scale = QUICK if options.quick else FULL
    rounds: dict[str, list[Round]] = {way: [] for way in WAYS}
    for number in range(1, scale.rounds + 1):
        for way, arguments in WAYS.items():
            options.tell(f"round {number} of {scale.rounds}: {way}")
            rounds[way].append(run_round(scale, options, Setup(kafka, arguments)))
    return summarise(options.seed, rounds)


def summarise(seed: int, rounds: dict[str, list[Round]]) -> Report:
    """Turn the rounds into a report."""
    figures: dict[str, Any] = {"seed": seed}
    rows: list[tuple[str, str, str]] = []
    base = spread_of(rounds["local"], "events_per_second").median
    for way, own in rounds.items():
        drained = spread_of(own, "events_per_second")
        cost = 1 - drained.median / base
        latency = [each.latency_not_held for each in own]
        figures[way] = {
            "events_per_second": drained.median,
            "applied_events_per_second": spread_of(own, "applied_events_per_second").median,
            "cost_share": cost,
            "latency_not_held_seconds": latency_of(latency),
            "latency_seconds": latency_of([each.latency for each in own]),
        }
        rows += [
            (way, drained.shown(unit=" events/s"), f"{cost:.1%} less than local"),
            ("", *latency_row(latency)),
        ]
    problems = [
        f"{way}, round {number}: {problem}"
        for way, own in rounds.items()
        for number, each in enumerate(own, 1)
        for problem in each.problems
    ]
    return Report("guarantees", figures, rows, problems)
