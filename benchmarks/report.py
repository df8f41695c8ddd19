"""What a benchmark takes and gives: options in, a report out, for people and for programs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import ArrayLike
from rich.console import Console
from rich.table import Table


class BenchmarkError(Exception):
    """A benchmark could not be carried out; its text is one clear line."""


@dataclass(frozen=True)
class Options:
    """What every benchmark is told.

    Attributes
    ----------
    quick
        Smaller and shorter, one round: to see that all works, not for figures.
    seed
        Decides all traffic, at least 0.
    tell
        Called with one line at each step of long work.
    chosen
        Flags that only this benchmark takes, by name, those that were given.
    """

    quick: bool
    seed: int
    tell: Callable[[str], None]
    chosen: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Attributes
    ----------
    name
        The benchmark's permanent name.
    figures
        For programs: JSON-able, by the names of the contract.
    rows
        For people: (what, value, remark).
    problems
        Why the run is not valid; empty where it is.
    """

    name: str
    figures: dict[str, Any]
    rows: list[tuple[str, str, str]]
    problems: list[str] = field(default_factory=list)


class Benchmark(Protocol):
    """A benchmark is a module with this function."""

    def run(self, options: Options) -> Report:
        """Carry the benchmark out; raises `BenchmarkError` where it cannot be."""


@dataclass(frozen=True)
class Spread:
    """Median and range of a figure over the rounds.

    Examples
    --------
    >>> str(Spread.of([3.0, 1.0, 2.0]))
    '2 (1-3)'
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise one value per round; at least one round."""
        return cls(float(np.median(values)), min(values), max(values))

    def shown(self, scale: float = 1.0, digits: int = 0, unit: str = "") -> str:
        """Write as ``median (low-high)``, each times `scale`."""
        median, low, high = (f"{v * scale:,.{digits}f}" for v in (self.median, self.low, self.high))
        return f"{median} ({low}-{high}){unit}"

    def __str__(self) -> str:
        return self.shown()


def quantile(values: ArrayLike, q: float) -> float | None:
    """Return the smallest value that a share `q` of all values does not exceed; None for none.

    The nearest-rank quantile: always one of the values, and p99 of ten values is their largest.

    Examples
    --------
    >>> quantile([5.0, 1.0, 3.0], 0.5), quantile([], 0.5)
    (3.0, None)
    """
    array = np.asarray(values, np.float64)
    if len(array) == 0:
        return None
    return float(np.quantile(array, q, method="inverted_cdf"))


def as_json(report: Report, machine: dict[str, Any]) -> bytes:
    """Write the report as one line of JSON."""
    return orjson.dumps(
        {
            "benchmark": report.name,
            **report.figures,
            "valid": not report.problems,
            "problems": report.problems,
            "machine": machine,
        }
    )


def print_tables(report: Report, machine: dict[str, Any], console: Console) -> None:
    """Print the report for a person."""
    table = Table(title=f"{report.name}: {'valid' if not report.problems else 'NOT VALID'}")
    for heading in ("what", "value", "remark"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for row in report.rows:
        table.add_row(*row)
    console.print(table)
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB,"
        f" {machine['system']}, load {machine['load']}",
        highlight=False,
    )
    console.print(
        ", ".join(f"{name} {number}" for name, number in machine["versions"].items()),
        highlight=False,
    )
    for problem in report.problems:
        console.print(f"not valid: {problem}", style="red", highlight=False)
