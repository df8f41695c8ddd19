"""Compiles every kernel of the hot path before the first event, on data made up for it.

The first start on a machine takes a while for this; later ones load what was compiled then.
"""

import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import orjson

from operators.policy import Act, Rule, Target
from state.partition import Identity, Partition, SharedOptions
from state.rows import KeyedRows
from streams.metrics import Metrics
from streams.models import Models
from streams.partitioner import partitions_of
from streams.partitions import OpenPartition
from streams.rules import RuleChange
from streams.settings import Settings
from streams.sources import SOURCES
from streams.transport import Chunk

log = logging.getLogger(__name__)

DAY_MS = 86_400_000
START_MS = 1_600_000_000_000
CUSTOMERS = 60
DAYS = 4


@dataclass(frozen=True, slots=True)
class MadeUpRecord:
    """What decoding needs of a record."""

    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


def compile_kernels(settings: Settings) -> float:
    """Run events of every kind through models and a partition of their own.

    Returns
    -------
    Seconds that it took.
    """
    started = time.perf_counter()
    log.info("preparing kernels; the first start on a machine compiles them, about a minute")
    models = Models(settings)
    # Without any rule, the policy of lists is not asked.
    models.rules.apply(RuleChange("warm-up", Rule("warm-up", Act.PIN, Target.ITEM, "i0")))
    with tempfile.TemporaryDirectory() as directory:
        partition = _partition(Path(directory), models, settings)
        for day in range(DAYS):
            for topic in SOURCES:
                chunk = _chunk(topic, day, settings)
                partition.apply(chunk, START_MS + 10 * DAY_MS)
            partition.pay_lists(CUSTOMERS, START_MS)
        models.quality()
        Models(settings).apply_delta(models.take_delta())
        partition.store.close()
    seconds = time.perf_counter() - started
    log.info("kernels are ready after %.1f seconds", seconds)
    return seconds


def _partition(path: Path, models: Models, settings: Settings) -> OpenPartition:
    identity = Identity("warm-up", tuple(SOURCES), 0, settings.partitions, "warm-up")
    store = Partition.open(
        path / "0", identity=identity, layout=models.row_dtype, options=SharedOptions()
    )
    rows = KeyedRows(models.row_dtype, max_rows=CUSTOMERS)
    progress = store.progress
    progress.offsets.update(dict.fromkeys(SOURCES, 0))
    return OpenPartition(
        0,
        store,
        rows,
        progress,
        dict.fromkeys(SOURCES, 0),
        models=models,
        settings=settings,
        metrics=Metrics("warm-up"),
        poison={},
    )


def _chunk(topic: str, day: int, settings: Settings) -> Chunk:
    names = [f"customer-{number}" for number in range(20 * CUSTOMERS * settings.partitions)]
    home = partitions_of(names, settings.partitions) == 0
    customers = [name for name, here in zip(names, home, strict=True) if here][:CUSTOMERS]
    records = tuple(
        MadeUpRecord(
            offset=day * len(customers) + position,
            timestamp=START_MS + day * DAY_MS,
            key=customer.encode(),
            value=orjson.dumps(_event(topic, customer, day, position)),
        )
        for position, customer in enumerate(customers)
    )
    end = records[-1].offset + 1
    return Chunk(topic, 0, records[0].offset, end, records, end)


def _event(topic: str, customer: str, day: int, position: int) -> dict[str, object]:
    event: dict[str, object] = {
        "event_id": f"{topic}-{day}-{position}",
        "customer_id": customer,
        "ts": START_MS + day * DAY_MS + position,
    }
    if topic == "clicks":
        event |= {"action": "cart" if position % 5 == 0 else "view", "item_id": f"i{position % 30}"}
    elif topic == "purchases":
        lines = [{"item_id": f"i{(position + k) % 30}", "unit_price": 2.5} for k in range(2)]
        event |= {"items": lines, "promotion": position % 2 == 0}
    elif topic == "chats":
        event |= {"text": "Where is my parcel? Très bad.", "sentiment": -1.0, "intent": "parcel"}
    else:
        event |= {"region": "north", "membership_level": "gold"}
    return event
