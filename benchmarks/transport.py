"""The engine's batch transport beside a plain Faust agent, on the same backlog.

Both agents do nothing but count, in processes of their own, on the embedded broker, one after the
other and in alternating order. The clock of a side starts after its first message, so that imports
and joining the group are left out. The plain side is timed over the first twentieth of the
backlog: its pace is steady, and all of it would take minutes.
"""

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.processes import Child, broker
from benchmarks.report import Options, Report, Spread
from benchmarks.rounds import HOUR_MS, prepare, send
from benchmarks.sender import Plan, Traffic
from benchmarks.transport_side import SIDES, Counted
from streams.settings import Settings

CUSTOMERS = 50_000
ITEMS = 10_000


@dataclass(frozen=True)
class Scale:
    """How many clicks are in the backlog, how many of them the plain side counts, how often."""

    clicks: int
    plain_clicks: int
    rounds: int


FULL = Scale(clicks=1_000_000, plain_clicks=50_000, rounds=3)
QUICK = Scale(clicks=100_000, plain_clicks=5_000, rounds=1)


def run(options: Options) -> Report:
    """Preload the clicks and let both sides count them in turns."""
    scale = QUICK if options.quick else FULL
    return summarise(options.seed, run_rounds(scale, options), scale)


def run_rounds(scale: Scale, options: Options) -> dict[str, list[Counted]]:
    """Return what each side counted in each round."""
    counted: dict[str, list[Counted]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory(prefix="crm-transport-") as directory:
        logs = Path(directory)
        with broker(logs) as url:
            asyncio.run(prepare(Settings(broker=url)))
            options.tell(f"sending {scale.clicks:,} clicks")
            send(plan_of(scale, options.seed, url), logs, "sender")
            for number in range(1, scale.rounds + 1):
                for side in SIDES if number % 2 else SIDES[::-1]:
                    options.tell(f"round {number} of {scale.rounds}: {side}")
                    wanted = scale.plain_clicks if side == "plain" else scale.clicks
                    counted[side].append(count_with(side, url, wanted, logs))
    return counted


def plan_of(scale: Scale, seed: int, url: str) -> Plan:
    """Return the plan of a backlog of clicks alone."""
    settings = Settings(broker=url)
    traffic = Traffic(
        seed=seed,
        run=0,
        start_ts_ms=time.time_ns() // 1_000_000 - HOUR_MS,
        span_ms=HOUR_MS,
        customers=CUSTOMERS,
        items=ITEMS,
        clicks=scale.clicks,
        purchases=0,
        chats=0,
    )
    return Plan(
        broker=url,
        partitions=settings.partitions,
        traffic=traffic,
        catalog=False,
        rate=None,
        limit=scale.clicks,
    )


def count_with(side: str, url: str, wanted: int, logs: Path) -> Counted:
    """Run one side until it has counted `wanted` events."""
    arguments = ["benchmarks.transport_side", side, url, str(wanted), str(logs / f"{side}-data")]
    with Child(side, arguments, logs, piped=True) as child:
        return msgspec.json.decode(child.read_line(), type=Counted)


def summarise(seed: int, counted: dict[str, list[Counted]], scale: Scale) -> Report:
    """Turn the counts into a report: medians, ranges, and what went wrong."""
    spreads = {
        side: Spread.of([each.timed_events / each.seconds for each in rounds])
        for side, rounds in counted.items()
    }
    ratio = spreads["batch"].median / spreads["plain"].median
    rounds = len(counted["batch"])
    figures: dict[str, Any] = {
        "seed": seed,
        "events": scale.clicks,
        "rounds": rounds,
        "ratio": ratio,
        "by_round": {side: msgspec.to_builtins(each) for side, each in counted.items()},
    }
    figures |= {f"{side}_events_per_second": spread.median for side, spread in spreads.items()}
    rows = [
        ("events", f"{scale.clicks:,}", f"{rounds} rounds, seed {seed}"),
        ("batch transport", spreads["batch"].shown(unit=" events/s"), ""),
        (
            "plain Faust agent",
            spreads["plain"].shown(unit=" events/s"),
            f"over the first {scale.plain_clicks:,} events",
        ),
        ("ratio", f"{ratio:.1f}", "batch to plain"),
    ]
    problems = [
        f"{side}, round {number}: {problem}"
        for side, rounds_of in counted.items()
        for number, each in enumerate(rounds_of, 1)
        for problem in problems_of(each, scale.clicks if side == "batch" else scale.plain_clicks)
    ]
    return Report("transport", figures, rows, problems)


def problems_of(counted: Counted, wanted: int) -> list[str]:
    """Return what makes a count invalid: wrong offsets, or another number of events."""
    if counted.events != wanted:
        return [*counted.problems, f"{counted.events} events counted, {wanted} sent"]
    return counted.problems
