"""Random search for settings of the hybrid, on the first fifth of a stream only."""

from collections.abc import Callable

import numpy as np

from benchmarks.recommend.data import Stream, shortened
from benchmarks.recommend.engine import EngineHybrid
from benchmarks.recommend.prequential import evaluate
from operators.hybrid import Options

SHARE = 0.2
TRIALS = 12
CHOICES: dict[str, tuple[float, ...]] = {
    "smoothing": (3.0, 10.0, 30.0),
    "negatives": (16, 32, 64),
    "factors": (16, 32, 64),
    "context_items": (16, 32, 64),
    "also_candidates": (60, 100, 150),
    "near_candidates": (40, 60, 100),
}
"""The search picks one of each."""


def drawn(start: Options, generator: np.random.Generator) -> Options:
    """Draw settings.

    Examples
    --------
    >>> drawn(Options(), np.random.default_rng(0)).negatives in CHOICES["negatives"]
    True
    """
    picks = {name: values[generator.integers(len(values))] for name, values in CHOICES.items()}
    return start._replace(**{name: type(getattr(start, name))(v) for name, v in picks.items()})


def search(
    stream: Stream, start: Options, seed: int, *, repeats: bool, tell: Callable[[str], None]
) -> Options:
    """Return the settings with the best hit rate at 10 on the stream's beginning, `start` included.

    Nothing behind the first `SHARE` of the orders is looked at.
    """
    beginning = shortened(stream, SHARE)
    generator = np.random.default_rng(seed)
    tried = [start, *(drawn(start, generator) for _ in range(TRIALS))]
    rates = []
    for number, options in enumerate(tried):
        figures = evaluate(
            beginning,
            EngineHybrid(beginning, seed, options),
            repeats=repeats,
            tell=lambda share, number=number: tell(f"tuning {number}/{TRIALS} {share:.0%}"),  # type: ignore[misc] # bound now
        )
        rates.append(float(figures["hr_at_10"]))
    return tried[int(np.argmax(rates))]
