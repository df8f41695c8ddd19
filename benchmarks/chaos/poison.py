"""Records that nobody can use, for the chaos harness: each must become one dead letter."""

import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.chaos.facts import EVENT_TOPICS, FORWARDED_HEADER, Poison, home_of

DECODE, VALIDATE = "decode", "validate"
TEXT_TOO_LONG = 8_193


class Made(NamedTuple):
    """A record, and the dead letter's stage; lies in any partition where none is given."""

    fact: Poison
    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None


Maker = Callable[[random.Random, str, int], Made]


def poison(draw: random.Random, customer: str, partitions: int) -> Made:
    """Make a poison record under a customer's name.

    Examples
    --------
    >>> made = [poison(random.Random(seed), "ada", 4) for seed in range(100)]
    >>> sorted({each.fact.stage for each in made})
    ['decode', 'validate']
    """
    return draw.choice(MAKERS)(draw, customer, partitions)


def _event(draw: random.Random, customer: str, **changes: Any) -> dict[str, Any]:
    """Return a good click with some fields changed, or left out where they are None."""
    event = {
        "event_id": f"x{draw.getrandbits(48)}",
        "customer_id": customer,
        "ts": 1_700_000_000_000,
        "action": "view",
        "item_id": "item-0",
        **changes,
    }
    return {name: value for name, value in event.items() if value is not None}


def _bytes(draw: random.Random, customer: str, partitions: int) -> Made:
    """Make bytes that are not JSON, not UTF-8, or not there."""
    del partitions
    whole = json.dumps(_event(draw, customer)).encode()
    value = draw.choice((whole[:-1], b"\xff" + whole, whole[:-1] + b',"x":"\xc3"}', b"", None))
    return Made(Poison(DECODE), draw.choice(EVENT_TOPICS), customer.encode(), value)


def _click(draw: random.Random, customer: str, partitions: int) -> Made:
    """Make a click that breaks a rule."""
    del partitions
    changes: dict[str, Any] = draw.choice(
        (
            {"event_id": None},
            {"event_id": ""},
            {"customer_id": ["ada"]},
            {"ts": "the day before yesterday"},
            {"ts": 1},
            {"ts": 99_999_999_999_999},
            {"action": "dance"},
            {"item_id": None},
            {"dwell_ms": -1},
        )
    )
    value = json.dumps(_event(draw, customer, **changes)).encode()
    return Made(Poison(VALIDATE), "clicks", customer.encode(), value)


def _order(draw: random.Random, customer: str, partitions: int) -> Made:
    """Make an order that breaks a rule."""
    del partitions
    lines = draw.choice(
        (
            [],
            [{"item_id": "a", "quantity": 0}],
            [{"item_id": "a", "unit_price": -1}],
            [{"quantity": 1}],
            [{"item_id": "a", "quantity": "many"}],
        )
    )
    event = _event(draw, customer, action=None, item_id=None, items=lines)
    return Made(Poison(VALIDATE), "purchases", customer.encode(), json.dumps(event).encode())


def _chat(draw: random.Random, customer: str, partitions: int) -> Made:
    """Make a chat that breaks a rule."""
    del partitions
    changes: dict[str, Any] = draw.choice(
        ({"text": "x" * TEXT_TOO_LONG}, {"text": "x", "sentiment": 2}, {"text": 7}, {})
    )
    event = _event(draw, customer, action=None, item_id=None, **changes)
    return Made(Poison(VALIDATE), "chats", customer.encode(), json.dumps(event).encode())


def _key(draw: random.Random, customer: str, partitions: int) -> Made:
    """Make a click with a key that names somebody else."""
    del partitions
    value = json.dumps(_event(draw, customer)).encode()
    return Made(Poison(VALIDATE), "clicks", b"somebody-else", value)


def _misplaced(draw: random.Random, customer: str, partitions: int) -> Made:
    """Make a newcomer's click that says it was forwarded, and is not at home."""
    stranger = f"{customer}-misplaced-{draw.getrandbits(48)}"
    value = json.dumps(_event(draw, stranger)).encode()
    partition = (home_of(stranger, partitions) + 1) % partitions
    headers = ((FORWARDED_HEADER, b"0"),)
    return Made(Poison(VALIDATE), "clicks", stranger.encode(), value, headers, partition)


def _customer(draw: random.Random, customer: str, partitions: int) -> Made:
    """Make a record of `customers` that cannot be read, or speaks of nobody."""
    del partitions
    record = json.dumps({"customer_id": customer, "signup_ts": True}).encode()
    key = customer.encode()
    stage, key_or_none, value = draw.choice(
        (
            (DECODE, key, b"{"),
            (VALIDATE, key, record),
            (VALIDATE, key, b"{}"),
            (VALIDATE, b"somebody-else", json.dumps({"customer_id": customer}).encode()),
            (VALIDATE, None, b""),
        )
    )
    return Made(Poison(stage), "customers", key_or_none, value)


MAKERS: tuple[Maker, ...] = (_bytes, _click, _order, _chat, _key, _misplaced, _customer)
