"""``python -m benchmarks NAME``: run a benchmark and print what it found."""

import sys
from importlib import import_module
from typing import cast

import click
from rich.console import Console

from benchmarks import machine
from benchmarks.report import Benchmark, BenchmarkError, Options, as_json, print_tables
from streams.errors import StreamsError

NAMES = (
    "pipeline",
    "transport",
    "guarantees",
    "recovery",
    "takeover",
    "memory",
    "chaos",
    "recommend",
)
"""Each is a module of this package with a function `run`, and `FLAGS` where it takes any of its
own."""


@click.command()
@click.argument("name", type=click.Choice(NAMES))
@click.option("--quick", is_flag=True, help="Small and short, one round; not for figures.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--json", "as_data", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--faults", type=click.IntRange(1, 100_000), help="chaos: so many faults.")
@click.option("--workers", type=click.IntRange(1, 8), help="chaos: so many worker processes.")
@click.option("--broker", type=click.Choice(("kafka", "embedded")), help="chaos: on which broker.")
@click.option(
    "--guarantee",
    type=click.Choice(("exactly_once", "at_least_once")),
    help="chaos: what the workers promise.",
)
@click.option("--data", help="recommend: a set's name, or a file.")
@click.option(
    "--topic",
    type=click.Choice(("clicks", "purchases")),
    help="recommend: what records of a file are.",
)
@click.option(
    "--columns", help="recommend: columns of a CSV, as in customer=user,item=movie,ts=at."
)
@click.option(
    "--mode",
    type=click.Choice(("new", "repeat")),
    help="recommend: whether what a customer has had may be recommended again.",
)
@click.option(
    "--ties",
    type=click.Choice(("file", "shuffled")),
    help="recommend: the order of choices of the same time.",
)
@click.option(
    "--tune", is_flag=True, default=None, help="recommend: look for settings on the first fifth."
)
@click.option("--plot", help="recommend: write the curves over time to this PNG.")
def main(name: str, quick: bool, seed: int, as_data: bool, **flags: object) -> None:
    """Run the benchmark NAME; the exit status is 1 where the run is not valid."""
    console = Console(stderr=True)

    def tell(line: str) -> None:
        if console.is_terminal:
            console.print(f"{name}: {line}", style="dim", highlight=False)

    benchmark = cast(Benchmark, import_module(f"benchmarks.{name}"))
    chosen = {flag: value for flag, value in flags.items() if value is not None}
    foreign = sorted(chosen.keys() - getattr(benchmark, "FLAGS", frozenset()))
    if foreign:
        raise click.UsageError(f"{name} does not take --{foreign[0]}")
    facts = machine.facts()
    try:
        report = benchmark.run(Options(quick=quick, seed=seed, tell=tell, chosen=chosen))
    except (BenchmarkError, StreamsError) as error:
        raise click.ClickException(str(error)) from error
    if as_data:
        sys.stdout.buffer.write(as_json(report, facts) + b"\n")
    else:
        print_tables(report, facts, Console())
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
