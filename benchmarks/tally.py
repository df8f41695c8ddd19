"""The oracle: what each customer did, counted from what was sent, and held against the worker."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from msgspec import Struct, field

SHOWN_MISMATCHES = 3


class CustomerTally(Struct):
    """What one customer did."""

    clicks: int = 0
    carts: int = 0
    orders: int = 0
    items_bought: float = 0.0
    spend: float = 0.0
    chats: int = 0


COUNTED = ("clicks", "carts", "orders", "items_bought", "spend", "chats")


class Tally(Struct):
    """Counts of everything that was sent: events by topic, and deeds by customer.

    Examples
    --------
    >>> tally = Tally()
    >>> tally.add("clicks", {"event_id": "1", "customer_id": "ada", "action": "cart"})
    >>> tally.events, tally.customers["ada"].carts
    ({'clicks': 1}, 1)
    """

    events: dict[str, int] = field(default_factory=dict)
    customers: dict[str, CustomerTally] = field(default_factory=dict)

    def add(self, topic: str, record: Mapping[str, Any]) -> None:
        """Count a record of `clicks`, `purchases` or `chats`."""
        self.events[topic] = self.events.get(topic, 0) + 1
        customer = self.customers.setdefault(record["customer_id"], CustomerTally())
        if topic == "clicks":
            customer.clicks += 1
            customer.carts += record["action"] == "cart"
        elif topic == "purchases":
            customer.orders += 1
            for line in record["items"]:
                customer.items_bought += line["quantity"]
                customer.spend += line["quantity"] * line["unit_price"]
        else:
            customer.chats += 1

    def merge(self, later: "Tally") -> None:
        """Add what was sent afterwards."""
        for topic, count in later.events.items():
            self.events[topic] = self.events.get(topic, 0) + count
        for name, theirs in later.customers.items():
            ours = self.customers.setdefault(name, CustomerTally())
            for what in COUNTED:
                setattr(ours, what, getattr(ours, what) + getattr(theirs, what))

    @property
    def total(self) -> int:
        """Events over all topics."""
        return sum(self.events.values())


def check_events(tally: Tally, applied: Mapping[str, float]) -> list[str]:
    """Compare the events applied per topic, by the worker's metrics, with what was sent."""
    return [
        f"{topic}: {applied.get(topic, 0):.0f} events applied, {sent} sent"
        for topic, sent in sorted(tally.events.items())
        if applied.get(topic, 0) != sent
    ]


def check_profile(name: str, tally: CustomerTally, profile: Mapping[str, Any] | None) -> list[str]:
    """Compare a customer's profile, as the worker tells it, with what was sent.

    Counts must be equal; the sums `items_bought` and `spend` may differ by a rounding error.
    """
    if profile is None:
        return [f"customer {name}: unknown to the worker"]
    return [
        f"customer {name}: {what} is {profile.get(what)}, sent were {getattr(tally, what)}"
        for what in COUNTED
        if not _agree(profile.get(what), getattr(tally, what))
    ]


def _agree(told: Any, sent: float) -> bool:
    return isinstance(told, int | float) and math.isclose(told, sent, rel_tol=1e-9, abs_tol=1e-5)


def check_lists(tally: Tally, heard: Collection[str]) -> list[str]:
    """Check that each customer who did something has a list.

    What triggered the last one is not looked at: a list equal to the one before it is not sent
    again.

    Parameters
    ----------
    heard
        The customers that lists were heard for.
    """
    missing = [name for name in tally.customers if name not in heard]
    if missing:
        return [f"{len(missing)} customers without a list: {shown(missing)}"]
    return []


def shown(names: Iterable[str]) -> str:
    """Name the first few."""
    listed = sorted(names)
    more = ", ..." if len(listed) > SHOWN_MISMATCHES else ""
    return ", ".join(listed[:SHOWN_MISMATCHES]) + more
