import gzip
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from streams.errors import ReplayError
from streams.records import Click, Purchase
from streams.replay_formats import FORMATS

RETAIL_HEADER = (
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
)
RETAIL_LINES = [
    '536365,85123A,"HEART, WHITE",6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n',
    "536365,71053,LANTERN,2,2010-12-01 08:26:00,3.39,17850.0,United Kingdom\n",
    "C536379,D,Discount,-1,2010-12-01 09:41:00,27.5,14527.0,United Kingdom\n",
    "536380,22961,JAM SET,24,2010-12-01 09:41:00,1.45,,United Kingdom\n",
    "A563185,B,Adjust bad debt,1,2011-08-12 14:50:00,-11062.06,,United Kingdom\n",
    "536381,22139,TEA SET,0,2010-12-01 09:41:00,4.25,15311.0,United Kingdom\n",
    "536382,10002,GLOBE,12,2010-12-01 09:45:00,0.0,16098,United Kingdom\n",
]


def read(name: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    return list(FORMATS[name].read(path))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_each_format_is_found_by_its_name() -> None:
    assert {name: form.default_topic for name, form in FORMATS.items()} == {
        "online-retail": "purchases",
        "movielens": "clicks",
        "cdnow": "purchases",
    }
    assert all(form.name == name and form.description for name, form in FORMATS.items())


def test_an_invoice_becomes_one_purchase_with_its_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "retail.csv", RETAIL_HEADER + "".join(RETAIL_LINES))
    events = read("online-retail", path)
    assert events[0] == (
        "17850",
        {
            "event_id": "online-retail-536365-2",
            "customer_id": "17850",
            "ts": 1_291_191_960_000,
            "items": [
                {"item_id": "85123A", "quantity": 6, "unit_price": 2.55},
                {"item_id": "71053", "quantity": 2, "unit_price": 3.39},
            ],
            "order_id": "536365",
            "currency": "GBP",
        },
    )
    assert [(key, record["order_id"]) for key, record in events[1:]] == [("16098", "536382")]


def test_a_directory_and_a_gz_file_are_read_alike(tmp_path: Path) -> None:
    text = RETAIL_HEADER + "".join(RETAIL_LINES)
    with gzip.open(tmp_path / "online_retail.csv.gz", "wt") as file:
        file.write(text)
    plain = read("online-retail", write(tmp_path / "other.csv", text))
    assert read("online-retail", tmp_path) == plain
    assert read("online-retail", tmp_path / "online_retail.csv.gz") == plain


def test_a_huge_invoice_becomes_several_records_of_one_order(tmp_path: Path) -> None:
    line = "7,item,X,1,2010-12-01 08:26:00,1.0,5.0,France\n"
    events = read("online-retail", write(tmp_path / "r.csv", RETAIL_HEADER + line * 2_300))
    assert [len(record["items"]) for _, record in events] == [1_000, 1_000, 300]
    assert {record["order_id"] for _, record in events} == {"7"}
    assert len({record["event_id"] for _, record in events}) == 3


def test_reading_twice_gives_the_same_records(tmp_path: Path) -> None:
    path = write(tmp_path / "retail.csv", RETAIL_HEADER + "".join(RETAIL_LINES))
    assert read("online-retail", path) == read("online-retail", path)


def test_ratings_become_views_in_time_order_with_ties_as_in_the_file(tmp_path: Path) -> None:
    text = "userId,movieId,rating,timestamp\n1,50,4.0,900\n1,3,0.5,100\n2,9,5.0,100\n"
    events = read("movielens", write(tmp_path / "ratings.csv", text))
    assert [(r["customer_id"], r["item_id"], r["ts"]) for _, r in events] == [
        ("1", "3", 100_000),
        ("2", "9", 100_000),
        ("1", "50", 900_000),
    ]
    assert {record["action"] for _, record in events} == {"view"}
    assert events[0][1]["context"] == {"rating": 0.5}


def test_transactions_become_orders_in_time_order(tmp_path: Path) -> None:
    text = " customer_id date number_of_cds dollar_value\r\n 00002 19970112  5   75.00\r\n"
    text += " 00001 19970101  1   11.77\r\n 00003 19970102  0    0.00\r\n"
    events = read("cdnow", write(tmp_path / "CDNOW_master.txt", text))
    assert [key for key, _ in events] == ["00001", "00003", "00002"]
    assert [record["items"][0]["quantity"] for _, record in events] == [1, 1, 5]
    assert events[2][1]["items"][0]["unit_price"] == 15.0
    assert events[0][1]["ts"] == 852_076_800_000


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("online-retail", RETAIL_HEADER + "1,2,3\n", r"line 2: 3 fields where the header has 8"),
        ("online-retail", "InvoiceNo,StockCode\n", r"line 1: no column Quantity"),
        (
            "online-retail",
            RETAIL_HEADER + RETAIL_LINES[0] + RETAIL_LINES[0].replace("2010-12-01", "soon"),
            r"line 3: .*soon",
        ),
        (
            "online-retail",
            RETAIL_HEADER + RETAIL_LINES[0].replace("2.55", "nan"),
            r"line 2: 'nan' is not a finite number",
        ),
        (
            "online-retail",
            RETAIL_HEADER + RETAIL_LINES[0].replace(",6,", ",six,"),
            r"line 2: .*six",
        ),
        ("movielens", "userId,movieId,rating,timestamp\n1,2,good,5\n", r"line 2: .*good"),
        ("movielens", "", r"line 1: no column userId"),
        ("cdnow", "header\n00001 19970101 1\n", r"line 2: not enough values"),
        ("cdnow", "header\n00001 19971301 1 2.0\n", r"line 2: "),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    path = write(tmp_path / "data.csv", text)
    with pytest.raises(ReplayError, match=rf"data\.csv: {complaint}"):
        read(name, path)


def test_a_file_that_is_no_gzip_or_no_text_is_refused(tmp_path: Path) -> None:
    broken = write(tmp_path / "broken.csv.gz", "not packed")
    with pytest.raises(ReplayError, match=r"broken\.csv\.gz: line 1: "):
        read("online-retail", broken)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    for name in FORMATS:
        with pytest.raises(ReplayError, match=r"binary\.csv"):
            read(name, binary)


def test_a_truncated_gzip_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress((RETAIL_HEADER + "".join(RETAIL_LINES) * 50).encode())
    path = tmp_path / "cut.csv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReplayError, match=r"cut\.csv\.gz: line \d+: "):
        read("online-retail", path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in FORMATS:
        with pytest.raises(ReplayError, match="no such file"):
            read(name, tmp_path / "absent.csv")
        with pytest.raises(ReplayError, match="holds no "):
            read(name, tmp_path)


def test_online_retail_gives_the_published_counts(data_directory: Path) -> None:
    events = read("online-retail", data_directory / "online-retail")
    assert len(events) == 18_536
    assert len({key for key, _ in events}) == 4_339
    assert sum(len(record["items"]) for _, record in events) == 397_924
    assert len({record["event_id"] for _, record in events}) == 18_536
    check_records(events, Purchase)


def test_movielens_gives_the_published_counts(data_directory: Path) -> None:
    events = read("movielens", data_directory / "movielens-latest-small")
    assert len(events) == 100_836
    assert len({key for key, _ in events}) == 610
    assert len({record["item_id"] for _, record in events}) == 9_724
    check_records(events, Click)


def test_cdnow_gives_the_published_counts(data_directory: Path) -> None:
    events = read("cdnow", data_directory / "cdnow")
    assert len(events) == 69_659
    assert len({key for key, _ in events}) == 23_570
    check_records(events, Purchase)


def check_records(events: list[tuple[str, dict[str, Any]]], kind: Any) -> None:
    records = [record for _, record in events]
    assert all(a["ts"] <= b["ts"] for a, b in pairwise(records))
    decoded = msgspec.json.decode(orjson.dumps(records), type=list[kind])
    assert [record.customer_id for record in decoded] == [key for key, _ in events]
