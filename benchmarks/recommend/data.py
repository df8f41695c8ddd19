"""Streams of choices: who took which item when, in which order; from sets by name or from files."""

import csv
import gzip
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import BenchmarkError

POSITIVE_ACTIONS = frozenset({"view", "dwell", "pickup", "wishlist", "cart"})
COLUMNS = ("customer", "item", "ts", "rating", "order", "text")


class Choice(NamedTuple):
    """One line: a customer took an item.

    Attributes
    ----------
    order
        The order it is a line of; None where it stands alone.
    rating
        What the customer thinks of it; NaN where that was not said.
    text
        What the catalogue says of the item.
    """

    customer: str
    item: str
    ts_ms: int
    order: str | None = None
    rating: float = float("nan")
    text: str = ""


@dataclass(frozen=True)
class Stream:
    """Choices in the order of their times, as columns.

    Attributes
    ----------
    name
        Of the data set.
    customers, items
        int32[n]; numbered in the order of their first line.
    ts_ms
        int64[n], ascending.
    starts
        int64[orders + 1]: order `i` is the lines from ``starts[i]`` to before ``starts[i + 1]``,
        all of one customer. A choice that stands alone is an order of one line.
    ratings
        float32[n], NaN where there is none.
    customer_ids, item_ids
        The ids by number.
    item_texts
        What the catalogue says of each item: the first text that came with it.
    """

    name: str
    customers: NDArray[np.int32]
    items: NDArray[np.int32]
    ts_ms: NDArray[np.int64]
    starts: NDArray[np.int64]
    ratings: NDArray[np.float32]
    customer_ids: list[str]
    item_ids: list[str]
    item_texts: list[str]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def has_orders(self) -> bool:
        """Whether any order has more than one line."""
        return len(self.starts) - 1 < len(self)


def stream_of(name: str, choices: Iterable[Choice]) -> Stream:
    """Bring choices into the order of their times.

    Lines of one order come together, at the place of its first line. What has the same time keeps
    its place.

    Raises
    ------
    BenchmarkError
        Where there is nothing, or an order has two customers.

    Examples
    --------
    >>> order = [Choice("bob", "cup", 5, "A"), Choice("bob", "tea", 5, "A")]
    >>> stream = stream_of("shop", [Choice("ann", "tea", 9), *order])
    >>> [stream.item_ids[item] for item in stream.items], stream.starts.tolist()
    (['cup', 'tea', 'tea'], [0, 2, 3])
    """
    lines = sorted(choices, key=lambda line: line.ts_ms)
    if not lines:
        raise BenchmarkError(f"{name}: no line that names a customer, an item and a time")
    orders: dict[str | int, list[Choice]] = {}
    for place, line in enumerate(lines):
        orders.setdefault(place if line.order is None else line.order, []).append(line)
    for order, parts in orders.items():
        if any(line.customer != parts[0].customer for line in parts):
            raise BenchmarkError(f"{name}: order {order} is of two customers")
    grouped = [line for parts in orders.values() for line in parts]
    customers, customer_ids = _numbered([line.customer for line in grouped])
    items, item_ids = _numbered([line.item for line in grouped])
    texts = dict.fromkeys(item_ids, "")
    for line in grouped:
        texts[line.item] = texts[line.item] or line.text
    return Stream(
        name,
        customers,
        items,
        np.array([line.ts_ms for line in grouped], np.int64),
        np.cumsum([0, *(len(parts) for parts in orders.values())], dtype=np.int64),
        np.array([line.rating for line in grouped], np.float32),
        customer_ids,
        item_ids,
        list(texts.values()),
    )


def _numbered(names: list[str]) -> tuple[NDArray[np.int32], list[str]]:
    known: dict[str, int] = {}
    numbers = [known.setdefault(name, len(known)) for name in names]
    return np.array(numbers, np.int32), list(known)


def shuffle_ties(choices: list[Choice], seed: int) -> list[Choice]:
    """Return the choices with those of the same time in random order.

    Some data sets are sorted by item within a second, which tells of the next item by the last.
    """
    places = np.random.default_rng(seed).permutation(len(choices))
    return [choices[place] for place in places.tolist()]


# Sets by name.


def directory() -> Path:
    """Return where the public data lie."""
    found = Path(os.environ.get("CRM_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not found.is_dir():
        raise BenchmarkError(f"no public data at {found}: set CRM_DATA to where they lie")
    return found


def movielens_latest_small() -> list[Choice]:
    """Read the ratings; each counts as a choice, whatever the rating."""
    home = directory() / "movielens-latest-small"
    with closing(_open(home / "movies.csv")) as file:
        texts = {
            row["movieId"]: f"{row['title']} {row['genres'].replace('|', ' ')}"
            for row in csv.DictReader(file)
        }
    names = {"customer": "userId", "item": "movieId", "ts": "timestamp", "rating": "rating"}
    choices = csv_choices(home / "ratings.csv", names)
    return [choice._replace(text=texts.get(choice.item, "")) for choice in choices]


def online_retail() -> list[Choice]:
    """Read the lines of invoices, without cancellations and lines without a customer."""
    path = directory() / "online-retail" / "online_retail.csv.gz"
    choices = []
    with closing(_open(path)) as file:
        for row in csv.DictReader(file):
            invoice, customer = row["InvoiceNo"], row["CustomerID"]
            if not customer or invoice.startswith("C"):
                continue
            if float(row["Quantity"]) <= 0 or float(row["UnitPrice"]) <= 0:
                continue
            ts_ms = _milliseconds(row["InvoiceDate"])
            text = row["Description"] or ""
            choices.append(Choice(customer, row["StockCode"], ts_ms, invoice, text=text))
    return choices


SETS = {"movielens-latest-small": movielens_latest_small, "online-retail": online_retail}


# Files.


def file_choices(path: Path, topic: str, columns: Mapping[str, str] | None) -> list[Choice]:
    """Read a file: a CSV where `columns` are named, else the contract's records as JSON lines.

    Parameters
    ----------
    topic
        ``clicks`` or ``purchases``: of which the records are.
    columns
        The CSV's heading for each of `COLUMNS` that it has.

    Raises
    ------
    BenchmarkError
        Where it cannot be read, with the line.
    """
    try:
        if columns is not None:
            return list(csv_choices(path, columns))
        return list(_records(path, topic))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BenchmarkError(f"{path}: {error}") from error


def csv_choices(path: Path, columns: Mapping[str, str]) -> Iterator[Choice]:
    """Read a CSV with a heading; times are seconds or milliseconds since 1970, or ISO 8601."""
    with closing(_open(path)) as file:
        # The separator is whatever follows the first heading: a comma, a tab, a semicolon.
        heading = file.readline()
        rows = csv.DictReader(file, _split(heading), delimiter=_delimiter(heading))
        missing = [name for name in columns.values() if name not in (rows.fieldnames or ())]
        if missing:
            raise BenchmarkError(f"{path}: no column {missing[0]!r} among {rows.fieldnames}")
        for number, row in enumerate(rows, start=2):
            try:
                yield Choice(
                    row[columns["customer"]],
                    row[columns["item"]],
                    _milliseconds(row[columns["ts"]]),
                    row[columns["order"]] if "order" in columns else None,
                    float(row[columns["rating"]]) if "rating" in columns else float("nan"),
                    row[columns["text"]] if "text" in columns else "",
                )
            except (ValueError, TypeError) as error:
                raise BenchmarkError(f"{path}, line {number}: {error}") from error


class _Line(msgspec.Struct):
    item_id: str
    category: str | None = None


class _Record(msgspec.Struct):
    """A click or a purchase, as far as it is read."""

    customer_id: str | None = None
    ts: float | str = 0
    item_id: str | None = None
    action: str = "view"
    event_id: str | None = None
    order_id: str | None = None
    items: list[_Line] = []


def _records(path: Path, topic: str) -> Iterator[Choice]:
    decoder = msgspec.json.Decoder(_Record)
    with closing(_open(path)) as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                record = decoder.decode(text)
                ts_ms = _milliseconds(str(record.ts))
            except (msgspec.DecodeError, ValueError) as error:
                raise BenchmarkError(f"{path}, line {number}: {error}") from error
            if record.customer_id is None:
                continue
            if topic == "purchases":
                order = record.order_id or record.event_id or f"line {number}"
                for line in record.items:
                    yield Choice(
                        record.customer_id, line.item_id, ts_ms, order, text=line.category or ""
                    )
            elif record.item_id is not None and record.action in POSITIVE_ACTIONS:
                yield Choice(record.customer_id, record.item_id, ts_ms)


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="")
    return path.open(encoding="utf-8", newline="")


def _delimiter(heading: str) -> str:
    return max(",\t;|", key=heading.count)


def _split(heading: str) -> list[str]:
    return next(csv.reader([heading], delimiter=_delimiter(heading)))


def _milliseconds(text: str) -> int:
    """Read a time: ISO 8601, or seconds or milliseconds since 1970."""
    try:
        value = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        value = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    # Seconds reach eleven digits in the year 5138 only.
    return int(value if value >= 1e11 else value * 1000)


def shortened(stream: Stream, share: float) -> Stream:
    """Return the first `share` of the stream's orders."""
    orders = max(1, int((len(stream.starts) - 1) * share))
    end = int(stream.starts[orders])
    columns: dict[str, Any] = {
        name: getattr(stream, name)[:end] for name in ("customers", "items", "ts_ms", "ratings")
    }
    return replace(stream, starts=stream.starts[: orders + 1], **columns)
