"""What is planted in the simulated traffic, for tests to hold models against."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.simulator import texts
from streams.simulator.behaviour import SEGMENT_NAMES, SEGMENTS

NEVER = np.iinfo(np.int64).max
MAX_PREFERRED = 3
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
SOURED_MOODS = (0.75, 0.20, 0.05)
MOODS = np.array([segment.moods for segment in SEGMENTS] + [SOURED_MOODS]).cumsum(axis=1)
SOURED = len(SEGMENTS)


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64-bit counters into uniform 64-bit numbers (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = values + GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * MIX_2
    return mixed ^ (mixed >> np.uint64(31))


@dataclass(frozen=True)
class Truth:
    """The planted facts about customers, items and chats.

    Attributes
    ----------
    seed, run
        The simulator's seed and run.
    customer_ids, item_ids, category_names
        Ids by index.
    segment
        int8 (customers,): index into `streams.simulator.SEGMENT_NAMES`.
    group
        int16 (customers,): preference group; customers of a group draw their preferred categories
        from the same few.
    preferred
        int16 (customers, 3): category indices a customer prefers, strongest first; -1 pads.
    arrive_ts_ms, stop_ts_ms
        int64 (customers,): nothing happens before the one, nor from the other on; `NEVER` where
        a customer does not churn.
    sour_ms
        For this long before the stop, a churner's chats are mostly negative.
    item_category
        int16 (items,): category index.
    item_bundle
        int32 (items,): items of one bundle are viewed and bought together.
    item_weight
        float64 (items,): share of draws within the item's category (Zipf).
    item_price
        float64 (items,): list price.
    item_titles
        A title for each item.
    """

    seed: int
    run: int
    customer_ids: list[str]
    item_ids: list[str]
    category_names: list[str]
    item_titles: list[str]
    segment: NDArray[np.int8]
    group: NDArray[np.int16]
    preferred: NDArray[np.int16]
    arrive_ts_ms: NDArray[np.int64]
    stop_ts_ms: NDArray[np.int64]
    sour_ms: int
    item_category: NDArray[np.int16]
    item_bundle: NDArray[np.int32]
    item_weight: NDArray[np.float64]
    item_price: NDArray[np.float64]

    @property
    def tag(self) -> str:
        """What every id of an event begins with."""
        return f"{self.seed:x}.{self.run}" if self.run else f"{self.seed:x}"

    @cached_property
    def customer_index(self) -> dict[str, int]:
        """Index of each customer id."""
        return {name: i for i, name in enumerate(self.customer_ids)}

    @cached_property
    def item_index(self) -> dict[str, int]:
        """Index of each item id."""
        return {name: i for i, name in enumerate(self.item_ids)}

    def segment_of(self, customer_id: str) -> str:
        """Return the name of the segment that the customer belongs to."""
        return SEGMENT_NAMES[int(self.segment[self.customer_index[customer_id]])]

    def categories_of(self, customer_id: str) -> list[str]:
        """Return the categories that the customer prefers, strongest first."""
        row = self.preferred[self.customer_index[customer_id]]
        return [self.category_names[category] for category in row if category >= 0]

    def category_of(self, item_id: str) -> str:
        """Return the category that the item belongs to."""
        return self.category_names[int(self.item_category[self.item_index[item_id]])]

    def companions_of(self, item_id: str) -> set[str]:
        """Return the other items of the item's bundle."""
        bundle = self.item_bundle[self.item_index[item_id]]
        members = np.flatnonzero(self.item_bundle == bundle)
        return {self.item_ids[member] for member in members} - {item_id}

    def has_stopped(self, customer_id: str, ts_ms: int) -> bool:
        """Whether the customer has churned by `ts_ms`."""
        return bool(self.stop_ts_ms[self.customer_index[customer_id]] <= ts_ms)

    def chat_draws(self, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the uniform 64-bit numbers that decide the chats with these running numbers."""
        seed = splitmix64(np.array([self.seed], np.uint64))
        start = splitmix64(seed ^ np.uint64(self.run))
        return splitmix64(start ^ numbers.astype(np.uint64))

    def moods(
        self,
        draws: NDArray[np.uint64],
        customers: NDArray[np.int64],
        ts_ms: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return the planted mood of each chat: 0 negative, 1 neutral, 2 positive."""
        stop = self.stop_ts_ms[customers]
        soured = (stop != NEVER) & (ts_ms >= stop - self.sour_ms)
        kind = np.where(soured, SOURED, self.segment[customers])
        uniform = splitmix64(draws).astype(np.float64) / 2.0**64
        moods: NDArray[np.int64] = (uniform[:, None] >= MOODS[kind][:, :2]).sum(axis=1)
        return moods

    def _plan_of(self, chat: Mapping[str, Any]) -> tuple[int, int]:
        number = np.array([int(chat["event_id"].rsplit("-", 1)[1])])
        draws = self.chat_draws(number)
        customer = np.array([self.customer_index[chat["customer_id"]]])
        return int(self.moods(draws, customer, np.array([chat["ts"]]))[0]), int(draws[0])

    def sentiment_of(self, chat: Mapping[str, Any]) -> int:
        """Return the planted sentiment of a chat record: -1, 0 or 1."""
        return self._plan_of(chat)[0] - 1

    def intent_of(self, chat: Mapping[str, Any]) -> str:
        """Return the planted intent of a chat record, one of `streams.simulator.INTENTS`."""
        return texts.body_of(*self._plan_of(chat)).intent
