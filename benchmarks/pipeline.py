"""The whole engine under load: a backlog drained, then a steady offered load.

Broker, worker, load generator and a listener on the recommendations are processes of their own.

Backlog
    All events are in the broker before the worker starts, with event times over one hour. The
    worker's ``/metrics`` are read every 200 ms. The clock runs from the first reading that shows
    events applied to the first that shows all of them applied, no lag on any partition and no
    list owed; throughput is the events applied between the two readings over that time. What
    comes before (imports, compiling, joining the group, the first batch) is `startup_seconds`.
Steady
    Events are sent when they are due, whatever became of the ones before (open loop), at the pace
    of the wall clock in event time too. Latency is from the timestamp of a list's trigger, the
    newest event that the list reflects, as the generator put it into the record, to the arrival
    of the list at the listener: both the wall clock of this machine. A customer gets at most one
    list a second, so a list may be held back on purpose: `latency_not_held_seconds` leaves out
    the lists whose trigger was sent within a second of the arrival of the customer's list before.

A round is valid when every event was applied exactly once by the metrics, sampled customers'
profiles equal the generator's own counts, and every customer who did anything has a list.
"""

from dataclasses import asdict
from typing import Any

from benchmarks.report import Options, Report, Spread
from benchmarks.rounds import Round, Scale, Setup, run_round

FULL = Scale(1_000_000, 100_000, 20_000, 50_000, 10_000, rate=5_000, steady_seconds=30, rounds=3)
QUICK = Scale(50_000, 5_000, 1_000, 50_000, 10_000, rate=5_000, steady_seconds=5, rounds=1)


def run(options: Options) -> Report:
    """Carry out all rounds and summarise them."""
    scale = QUICK if options.quick else FULL
    return summarise(scale, options.seed, run_rounds(scale, options))


def run_rounds(scale: Scale, options: Options) -> list[Round]:
    """Carry out the rounds, each on a broker of its own."""
    rounds = []
    for number in range(1, scale.rounds + 1):
        options.tell(f"round {number} of {scale.rounds}")
        rounds.append(run_round(scale, options, Setup()))
    return rounds


def summarise(scale: Scale, seed: int, rounds: list[Round]) -> Report:
    """Turn the rounds into a report: medians, and the worst for memory."""
    figures: dict[str, Any] = {
        "seed": seed,
        "events": rounds[0].events,
        "events_per_second": spread_of(rounds, "events_per_second").median,
        "applied_events_per_second": spread_of(rounds, "applied_events_per_second").median,
        "rounds": len(rounds),
        "latency_seconds": latency_of([each.latency for each in rounds]),
        "latency_not_held_seconds": latency_of([each.latency_not_held for each in rounds]),
        "offered_events_per_second": scale.rate,
        "peak_memory_bytes": peak_of(rounds),
        "lists": int(spread_of(rounds, "lists").median),
        "alerts": int(spread_of(rounds, "alerts").median),
        "startup_seconds": spread_of(rounds, "startup_seconds").median,
        "by_round": [asdict(each) for each in rounds],
    }
    problems = [
        f"round {number}: {problem}"
        for number, each in enumerate(rounds, 1)
        for problem in each.problems
    ]
    return Report("pipeline", figures, rows_of(rounds, figures), problems)


def spread_of(rounds: list[Round], what: str) -> Spread:
    """Return the spread of one field over the rounds."""
    return Spread.of([getattr(each, what) for each in rounds])


def latency_of(rounds: list[dict[str, float | int | None]]) -> dict[str, float | int | None]:
    """Return the median over the rounds of each quantile, and the lists of all rounds."""
    summary: dict[str, float | int | None] = {}
    for what in ("p50", "p99", "max"):
        values = [value for each in rounds if (value := each[what]) is not None]
        summary[what] = Spread.of(values).median if values else None
    summary["lists"] = sum(each["lists"] or 0 for each in rounds)
    return summary


def peak_of(rounds: list[Round]) -> int | None:
    """Return the largest peak memory; None where the system does not tell."""
    told = [each.peak_memory_bytes for each in rounds if each.peak_memory_bytes is not None]
    return max(told, default=None)


def rows_of(rounds: list[Round], figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Write the table for people: medians, with the range over the rounds in brackets."""
    peak = figures["peak_memory_bytes"]
    return [
        ("events", f"{figures['events']:,}", f"{len(rounds)} rounds, seed {figures['seed']}"),
        (
            "backlog, drained",
            spread_of(rounds, "events_per_second").shown(unit=" events/s"),
            "all events applied and all lists sent",
        ),
        (
            "backlog, applied",
            spread_of(rounds, "applied_events_per_second").shown(unit=" events/s"),
            "until all events were applied",
        ),
        (
            "start-up",
            spread_of(rounds, "startup_seconds").shown(digits=1, unit=" s"),
            "not in the rates: imports, joining, first batch",
        ),
        (
            "offered load",
            spread_of(rounds, "offered_events_per_second").shown(unit=" events/s"),
            f"sent at most {max(r.worst_send_delay_seconds for r in rounds) * 1_000:.0f} ms late",
        ),
        ("latency, all lists", *latency_row([each.latency for each in rounds])),
        ("latency, not held back", *latency_row([each.latency_not_held for each in rounds])),
        ("peak memory", "unknown" if peak is None else f"{peak / 2**20:,.0f} MiB", "worker"),
        ("lists", spread_of(rounds, "lists").shown(), ""),
        ("alerts", spread_of(rounds, "alerts").shown(), ""),
    ]


def latency_row(rounds: list[dict[str, float | int | None]]) -> tuple[str, str]:
    """Write p50 and p99 in milliseconds, and the number of lists."""
    shown = [
        Spread.of([value for each in rounds if (value := each[what]) is not None] or [0.0]).shown(
            scale=1_000
        )
        for what in ("p50", "p99")
    ]
    return f"p50 {shown[0]}, p99 {shown[1]} ms", f"{sum(each['lists'] or 0 for each in rounds):,}"
