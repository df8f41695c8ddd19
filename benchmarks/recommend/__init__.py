"""Recommendations judged as they are made: predicted before learned, beside what others do.

Every method sees the same stream once, in time. An order is predicted before any of its lines is
learned; a choice that is no line of an order stands alone. The first tenth is learned and not
scored. Every rating or click is a choice. Candidates are the items that were in the stream before,
less those that the customer has had (``--mode new``, which then scores only what a customer takes
for the first time) or all of them (``--mode repeat``). An item that was never seen before is a
miss, and the figures are told without such lines, too; a customer's first choice is scored. Scores
that are equal count against the method, and a NaN is a miss.

Methods: ``hybrid``, the engine's own; ``popularity`` and ``decayed_popularity``; the customer's
``own_frequency``; ``river_biased_mf`` and ``bpr``, which learn line by line; ``item_to_item`` with
recency, and ``own_and_item_to_item``; ``implicit_als`` and ``implicit_bpr``, trained anew at every
twentieth of the stream. Those that draw at random run with three seeds; figures are means.

Where a stream has ratings, the error of the rating that the engine's operator expects stands
beside that of river's BiasedMF, each rating predicted before it is learned.

Sets by name read the public data (``CRM_DATA``); a file holds the contract's records as JSON
lines, or is a CSV whose columns ``--columns customer=user,item=movie,ts=timestamp`` names
(``rating``, ``order`` and ``text``, what the catalogue says of the item, are known, too).

``--tune`` looks for settings of the hybrid by random search on the first fifth of the stream. What
learning costs is measured with the fusion standing still: a worker teaches it from a share of the
orders that it has time for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from benchmarks.recommend.counting import DECAY_PER_LINE, OwnFrequency, Popularity
from benchmarks.recommend.data import (
    COLUMNS,
    SETS,
    Stream,
    file_choices,
    shortened,
    shuffle_ties,
    stream_of,
)
from benchmarks.recommend.engine import EngineHybrid, as_a_worker, without_fusion
from benchmarks.recommend.factors import BPR, RiverBiasedMF
from benchmarks.recommend.methods import Maker, Method
from benchmarks.recommend.neighbours import ItemToItem, OwnAndItemToItem
from benchmarks.recommend.plot import draw
from benchmarks.recommend.prequential import evaluate, learning_microseconds
from benchmarks.recommend.retrained import Retrained, Train, train_als, train_bpr
from benchmarks.recommend.stars import compare
from benchmarks.recommend.tune import search
from benchmarks.report import BenchmarkError, Options, Report

FLAGS = frozenset({"data", "topic", "columns", "mode", "ties", "plot", "tune"})
OURS = "hybrid"
SEEDS = 3
QUICK_SHARE = 0.05


def without_seed(kind: Callable[..., Method], **settings: Any) -> Maker:
    """Return a maker of methods that draw nothing."""

    def make(stream: Stream, seed: int) -> Method:
        del seed
        return kind(stream, **settings)

    return make


def retrained(train: Train) -> Maker:
    """Return a maker of a model that is trained in batches."""
    return lambda stream, seed: Retrained(stream, seed, train)


BASELINES: dict[str, Maker] = {
    "popularity": without_seed(Popularity),
    "decayed_popularity": without_seed(Popularity, decay=DECAY_PER_LINE),
    "own_frequency": without_seed(OwnFrequency),
    "item_to_item": without_seed(ItemToItem),
    "own_and_item_to_item": without_seed(OwnAndItemToItem),
    "river_biased_mf": RiverBiasedMF,
    "bpr": BPR,
    "implicit_als": retrained(train_als),
    "implicit_bpr": retrained(train_bpr),
}
DRAWING = frozenset({OURS, "river_biased_mf", "bpr", "implicit_als", "implicit_bpr"})
"""Methods that a seed makes a difference to."""


def run(options: Options) -> Report:
    """Judge every method on one data set."""
    name = str(options.chosen.get("data", "movielens-latest-small"))
    repeats = options.chosen.get("mode", "new") == "repeat"
    stream = read(name, options.chosen, options.seed)
    if options.quick:
        stream = shortened(stream, QUICK_SHARE)
    settings = as_a_worker(repeats=repeats)
    if options.chosen.get("tune"):
        settings = search(stream, settings, options.seed, repeats=repeats, tell=options.tell)
    results: dict[str, list[dict[str, Any]]] = {OURS: []}
    members = []
    for seed in seeds_of(OURS, options):
        ours = EngineHybrid(stream, seed, settings)
        bare = EngineHybrid(stream, seed, without_fusion(settings))
        results[OURS].append(judged(OURS, stream, ours, bare, options, repeats=repeats))
        members.append(ours.members())
    for method, make in BASELINES.items():
        results[method] = [
            judged(method, stream, make(stream, seed), make(stream, seed), options, repeats=repeats)
            for seed in seeds_of(method, options)
        ]
    report = summarise(stream, repeats, results, compare(stream, options.seed))
    report.figures["members"] = {part: fmean(each[part] for each in members) for part in members[0]}
    report.figures["settings"] = settings._asdict()
    if "plot" in options.chosen:
        draw(report.figures, Path(options.chosen["plot"]), OURS)
    return report


def seeds_of(method: str, options: Options) -> range:
    """Return the seeds that a method is run with."""
    count = SEEDS if method in DRAWING and not options.quick else 1
    return range(options.seed, options.seed + count)


def judged(
    name: str, stream: Stream, method: Method, fresh: Method, options: Options, *, repeats: bool
) -> dict[str, Any]:
    """Return a method's measures, and what learning the stream costs a fresh one of its kind."""
    figures = evaluate(
        stream, method, repeats=repeats, tell=lambda share: options.tell(f"{name} {share:.0%}")
    )
    return {**figures, "learn_microseconds_per_event": learning_microseconds(stream, fresh)}


def read(name: str, chosen: Mapping[str, Any], seed: int) -> Stream:
    """Read a set by its name, or a file.

    Raises
    ------
    BenchmarkError
        Where there is neither, or it cannot be read.
    """
    if name in SETS:
        choices = SETS[name]()
    elif Path(name).is_file():
        columns = columns_of(str(chosen["columns"])) if "columns" in chosen else None
        choices = file_choices(Path(name), str(chosen.get("topic", "clicks")), columns)
    else:
        raise BenchmarkError(f"--data {name}: neither a file nor one of {', '.join(SETS)}")
    if chosen.get("ties") == "shuffled":
        choices = shuffle_ties(choices, seed)
    return stream_of(Path(name).stem, choices)


def columns_of(text: str) -> dict[str, str]:
    """Read ``customer=user,item=movie,ts=timestamp``.

    Raises
    ------
    BenchmarkError
        Where a name is unknown, or one of customer, item and ts is missing.

    Examples
    --------
    >>> columns_of("customer=user,item=movie,ts=timestamp,rating=stars")["rating"]
    'stars'
    """
    columns = dict(part.partition("=")[::2] for part in text.split(","))
    unknown = sorted(columns.keys() - set(COLUMNS))
    missing = [name for name in ("customer", "item", "ts") if not columns.get(name)]
    if unknown or missing:
        what = f"does not know {unknown[0]!r}" if unknown else f"needs {missing[0]}=…"
        raise BenchmarkError(f"--columns {what}; it takes {', '.join(COLUMNS)}")
    return columns


def summarise(
    stream: Stream,
    repeats: bool,
    results: dict[str, list[dict[str, Any]]],
    ratings: dict[str, dict[str, float]],
) -> Report:
    """Turn the measures into a report: means over seeds."""
    methods = {name: means_of(each) for name, each in results.items()}
    baselines = [name for name in methods if name != OURS]
    best = max(baselines, key=lambda name: float(methods[name]["hr_at_10"]))
    figures = {
        "data": stream.name,
        "mode": "repeat" if repeats else "new",
        "lines": len(stream),
        "customers": len(stream.customer_ids),
        "items": len(stream.item_ids),
        "methods": methods,
        "best_baseline": best,
        "ratings": ratings,
    }
    rows = [("data", stream.name, f"{len(stream):,} lines, {figures['mode']} items")]
    rows += [row_of(name, measures) for name, measures in methods.items()]
    rows += [
        (
            f"ratings, {name}",
            f"RMSE {of_ratings['rmse']:.4f}",
            f"{of_ratings['microseconds_per_event']:.2f} µs a rating",
        )
        for name, of_ratings in ratings.items()
    ]
    return Report("recommend", figures, rows)


def means_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of each measure over the seeds, and the spread of the first."""
    means: dict[str, Any] = {}
    for name, value in runs[0].items():
        if isinstance(value, list):
            columns = zip(*(run[name] for run in runs), strict=True)
            means[name] = [None if None in each else fmean(each) for each in columns]
        else:
            means[name] = fmean(run[name] for run in runs)
    means["hr_at_10_deviation"] = pstdev([run["hr_at_10"] for run in runs])
    return means


def row_of(name: str, measures: dict[str, Any]) -> tuple[str, str, str]:
    """Show one method."""
    shown = f"{measures['hr_at_10']:.4f} (±{measures['hr_at_10_deviation']:.4f})"
    others = (
        f"NDCG {measures['ndcg_at_10']:.4f}, MRR {measures['mrr']:.4f}, "
        f"known items {measures['known_item_hr_at_10']:.4f}, "
        f"cold items {measures['cold_item_hr_at_10']:.4f}, "
        f"cold customers {measures['cold_customer_hr_at_10']:.4f}, "
        f"coverage {measures['coverage']:.2f}, "
        f"learns {measures['learn_microseconds_per_event']:.1f} µs, "
        f"asked {measures['score_microseconds']:.0f} µs"
    )
    return (name, f"HR@10 {shown}", others)
