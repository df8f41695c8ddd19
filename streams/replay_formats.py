"""Known data sets, read in their own format as records of the topics, in time order.

The reader of online-retail holds one order in memory, since the file lies in time order; those of
movielens and cdnow hold one tuple per line, since they have to sort. The same file gives the same
records with the same event ids.
"""

import csv
import gzip
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from streams.errors import ReplayError
from streams.records import LINES_MAX

Event = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class ReplayFormat:
    """How one known data set becomes records.

    Attributes
    ----------
    name
        What ``--format`` calls it.
    default_topic
        The topic its records belong to.
    description
        One line for a person.
    read
        Takes the path of the file, or of the directory that holds it; yields (key, record) in
        time order. Raises `ReplayError`, with file and line, on what cannot be read.
    """

    name: str
    default_topic: str
    description: str
    read: Callable[[Path], Iterator[Event]]


def find_file(path: Path, *names: str) -> Path:
    """Return `path`, or the first of `names` that lies in it where it is a directory.

    Raises
    ------
    ReplayError
        Where there is no such file.
    """
    if path.is_dir():
        for name in names:
            if (path / name).is_file():
                return path / name
        raise ReplayError(f"{path}: holds no {' or '.join(names)}")
    if not path.is_file():
        raise ReplayError(f"{path}: no such file")
    return path


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, unpacking it where its name ends in .gz.

    Raises
    ------
    ReplayError
        Where it cannot be opened, or its bytes are no UTF-8 or no gzip.
    """
    number = 0
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8", newline="")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8", newline="")
        ) as file:
            for line in file:
                number += 1
                yield line
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ReplayError(f"{path}: line {number + 1}: {error}") from error


class Row(NamedTuple):
    """Line number and the named fields of one line."""

    number: int
    fields: dict[str, str]


def read_rows(path: Path, columns: Iterable[str]) -> Iterator[Row]:
    """Yield the lines of a CSV file with a header that names at least `columns`.

    Raises
    ------
    ReplayError
        For a missing column, a line of another length, or bytes that are no UTF-8 or no gzip.
    """
    reader = csv.reader(read_lines(path))
    try:
        header = next(reader, [])
        missing = [name for name in columns if name not in header]
        if missing:
            raise ReplayError(f"{path}: line 1: no column {', '.join(missing)}")
        for fields in reader:
            if len(fields) != len(header):
                raise ReplayError(
                    f"{path}: line {reader.line_num}: {len(fields)} fields"
                    f" where the header has {len(header)}"
                )
            yield Row(reader.line_num, dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise ReplayError(f"{path}: line {reader.line_num}: {error}") from error


def parse_ts_ms(text: str) -> int:
    """Read an ISO 8601 date or time, taken as UTC, as milliseconds since the epoch.

    Raises
    ------
    ValueError
        Where `text` is no such time.

    Examples
    --------
    >>> parse_ts_ms("2010-12-01 08:26:00")
    1291191960000
    """
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


def parse_amount(text: str) -> float:
    """Read a finite number; raises ValueError for anything else."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


class RetailLine(NamedTuple):
    """One bought line of an invoice."""

    number: int
    invoice: str
    customer: str
    ts_ms: int
    item: dict[str, Any]


RETAIL_COLUMNS = ("InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID")


def retail_lines(path: Path) -> Iterator[RetailLine]:
    """Yield the lines of online-retail that were bought by somebody known."""
    for number, row in read_rows(path, RETAIL_COLUMNS):
        try:
            quantity = int(row["Quantity"])
            price = parse_amount(row["UnitPrice"])
            is_sale = quantity > 0 and price >= 0 and not row["InvoiceNo"].startswith("C")
            if not (is_sale and row["CustomerID"]):
                continue
            yield RetailLine(
                number,
                row["InvoiceNo"],
                row["CustomerID"].removesuffix(".0"),
                parse_ts_ms(row["InvoiceDate"]),
                {"item_id": row["StockCode"], "quantity": quantity, "unit_price": price},
            )
        except ValueError as error:
            raise ReplayError(f"{path}: line {number}: {error}") from error


def read_online_retail(path: Path) -> Iterator[Event]:
    """Yield one purchase per invoice of the UCI Online Retail data set.

    Left out: cancellations (an InvoiceNo that starts with C, or a quantity of 0 or less), lines
    without a CustomerID, and lines with a negative price. Times are read as UTC; a line's invoice
    carries the time of its first line. An invoice's lines lie together in the file; an invoice of
    more than 1,000 lines becomes several records with one `order_id`. The data has no categories.
    """
    file = find_file(path, "online_retail.csv.gz", "online_retail.csv")
    groups = groupby(retail_lines(file), key=lambda line: (line.invoice, line.customer))
    for (invoice, customer), lines in groups:
        items: list[dict[str, Any]] = []
        first: RetailLine | None = None
        for line in lines:
            if first is not None and len(items) == LINES_MAX:
                yield customer, retail_purchase(invoice, first, items)
                first, items = None, []
            first = first or line
            items.append(line.item)
        if first is not None:
            yield customer, retail_purchase(invoice, first, items)


def retail_purchase(invoice: str, first: RetailLine, items: list[dict[str, Any]]) -> dict[str, Any]:
    """Write an invoice as a record; the file's line makes its id unique."""
    return {
        "event_id": f"online-retail-{invoice}-{first.number}",
        "customer_id": first.customer,
        "ts": first.ts_ms,
        "items": items,
        "order_id": invoice,
        "currency": "GBP",
    }


def read_movielens(path: Path) -> Iterator[Event]:
    """Yield one `view` click per rating of a MovieLens ``ratings.csv``, whatever the stars.

    Whoever rated a film has watched it, so every rating is a positive; the stars are kept in
    `context`. Ratings are sorted by time; ratings of one second keep the file's order.
    """
    file = find_file(path, "ratings.csv")
    ratings: list[tuple[int, int, str, str, float]] = []
    for number, row in read_rows(file, ("userId", "movieId", "rating", "timestamp")):
        try:
            ts_ms = int(row["timestamp"]) * 1_000
            stars = parse_amount(row["rating"])
        except ValueError as error:
            raise ReplayError(f"{file}: line {number}: {error}") from error
        ratings.append((ts_ms, number, row["userId"], row["movieId"], stars))
    ratings.sort()
    for ts_ms, _, customer, item, stars in ratings:
        record = {
            "event_id": f"movielens-{customer}-{item}",
            "customer_id": customer,
            "ts": ts_ms,
            "action": "view",
            "item_id": item,
            "context": {"rating": stars},
        }
        yield customer, record


def read_cdnow(path: Path) -> Iterator[Event]:
    """Yield one purchase per transaction of the CDNOW master file.

    The file names no discs: each order has one line, `cd`, with the number of discs and the price
    per disc. Times are midnight UTC of the day; transactions of one day keep the file's order. A
    transaction of no discs counts as one line of one piece at its dollar value.
    """
    file = find_file(path, "CDNOW_master.txt")
    orders: list[tuple[int, int, str, int, float]] = []
    for number, text in enumerate(read_lines(file), 1):
        fields = text.split()
        if number == 1 or not fields:
            continue
        try:
            customer, day, discs, dollars = fields
            transaction = (customer, int(discs), parse_amount(dollars))
            orders.append((parse_ts_ms(day), number, *transaction))
        except ValueError as error:
            raise ReplayError(f"{file}: line {number}: {error}") from error
    orders.sort()
    for ts_ms, line, buyer, count, amount in orders:
        quantity = max(count, 1)
        record = {
            "event_id": f"cdnow-{line}",
            "customer_id": buyer,
            "ts": ts_ms,
            "items": [{"item_id": "cd", "quantity": quantity, "unit_price": amount / quantity}],
            "order_id": f"cdnow-{line}",
            "currency": "USD",
        }
        yield buyer, record


FORMATS = {
    form.name: form
    for form in (
        ReplayFormat(
            "online-retail",
            "purchases",
            "UCI Online Retail (2010-2011): one purchase per invoice of a known customer",
            read_online_retail,
        ),
        ReplayFormat(
            "movielens",
            "clicks",
            "MovieLens ratings.csv: one view per rating",
            read_movielens,
        ),
        ReplayFormat(
            "cdnow",
            "purchases",
            "CDNOW master file (1997-1998): one purchase per transaction",
            read_cdnow,
        ),
    )
}
"""The data sets that can be replayed, by name."""
