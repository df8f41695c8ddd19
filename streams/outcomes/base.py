"""What an outcome is: one thing that a CRM gets, made from the events of a partition."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from streams.batches import Batch, OutputRecord, Sweep
from streams.columns import (
    ChatColumns,
    ClickColumns,
    CustomerColumns,
    FeedbackColumns,
    PurchaseColumns,
)

NOTHING: list[OutputRecord] = []


class Outcome:
    """Base of all outcomes: takes events and sweeps, changes its columns, returns records.

    A subclass names itself, declares its columns of the customer's row, and overrides what it
    needs. Every method runs inside the one call that applies a chunk: it must not await, and an
    error raised in it makes the partition reopen from its last checkpoint.

    Attributes
    ----------
    name
        The field of the customer's row that holds its columns.
    row_dtype
        The columns; all zeros must mean "a customer never seen".
    """

    name: ClassVar[str]
    row_dtype: np.dtype[np.void]

    def on_clicks(self, batch: Batch[ClickColumns]) -> list[OutputRecord]:
        """Take clicks."""
        del batch
        return NOTHING

    def on_purchases(self, batch: Batch[PurchaseColumns]) -> list[OutputRecord]:
        """Take orders."""
        del batch
        return NOTHING

    def on_chats(self, batch: Batch[ChatColumns]) -> list[OutputRecord]:
        """Take chat messages."""
        del batch
        return NOTHING

    def on_feedback(self, batch: Batch[FeedbackColumns]) -> list[OutputRecord]:
        """Take what became of recommendations and decisions."""
        del batch
        return NOTHING

    def on_customers(self, batch: Batch[CustomerColumns]) -> list[OutputRecord]:
        """Take attributes of customers."""
        del batch
        return NOTHING

    def on_sweep(self, sweep: Sweep) -> list[OutputRecord]:
        """Look at every customer of a partition, at intervals of event time."""
        del sweep
        return NOTHING

    def describe(self, row: NDArray[np.void], features: NDArray[np.float32]) -> dict[str, Any]:
        """Return this outcome's part of a customer's profile, ready for JSON.

        Parameters
        ----------
        row
            The customer's row, a structured scalar of all outcomes' columns.
        features
            float32 (12,), as of the partition's newest event time.
        """
        del row, features
        return {}
