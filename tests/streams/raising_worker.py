"""A worker whose segments raise, in the middle of a batch, on the clicks of one item."""

import os
from typing import Any

from streams.batches import Batch, OutputRecord
from streams.outcomes.segments import Segments
from streams.settings import load_here
from streams.worker import Worker

POISON_ITEM = os.environ.get("TEST_POISON_ITEM", "poison")

original = Segments.on_clicks


def raise_on_poison(self: Segments, batch: Batch[Any]) -> list[OutputRecord]:
    outputs = original(self, batch)
    if POISON_ITEM in batch.columns.item_ids:
        raise ZeroDivisionError("this item cannot be segmented")
    return outputs


if __name__ == "__main__":
    Segments.on_clicks = raise_on_poison  # type: ignore[method-assign] # what the test is about
    Worker(load_here({})).run()
