"""The curve over time as a picture."""

from pathlib import Path
from typing import Any

from benchmarks.report import BenchmarkError


def draw(figures: dict[str, Any], path: Path, ours: str) -> None:
    """Write a PNG: each method's hit rate at 10 in each twentieth of the stream.

    Raises
    ------
    BenchmarkError
        Where matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BenchmarkError(
            f"{error}: it comes with the developers' packages, make dev"
        ) from error
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, measures in figures["methods"].items():
        curve = measures["hr_at_10_over_time"]
        places = [100 * (i + 0.5) / len(curve) for i in range(len(curve))]
        width, layer = (2.5, 3) if name == ours else (1.0, 2)
        axes.plot(places, curve, label=name, linewidth=width, zorder=layer)
    axes.set_title(f"{figures['data']}, {figures['mode']} items")
    axes.set_xlabel("percent of the stream")
    axes.set_ylabel("hit rate at 10")
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise BenchmarkError(f"{path}: {error}") from error
