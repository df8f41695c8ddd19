"""Raw records for tests of decoding."""

import json
from dataclasses import dataclass, field
from typing import Any

NOW_MS = 1_700_000_000_000


@dataclass
class RawRecord:
    offset: int
    value: bytes | None
    key: bytes | None = None
    timestamp: int = NOW_MS
    headers: list[tuple[str, bytes]] = field(default_factory=list)


def encoded(fields: Any) -> bytes:
    return json.dumps(fields).encode()


def click(**changes: Any) -> dict[str, Any]:
    """Fields of a valid click; a change to ... leaves the field out."""
    return _changed(
        {
            "event_id": "e-1",
            "customer_id": "ada",
            "ts": NOW_MS,
            "action": "view",
            "item_id": "mug",
        },
        changes,
    )


def purchase(**changes: Any) -> dict[str, Any]:
    items = [{"item_id": "mug", "quantity": 2, "unit_price": 4.5, "category": "kitchen"}]
    return _changed(
        {"event_id": "e-1", "customer_id": "ada", "ts": NOW_MS, "items": items}, changes
    )


def chat(**changes: Any) -> dict[str, Any]:
    return _changed(
        {"event_id": "e-1", "customer_id": "ada", "ts": NOW_MS, "text": "hello"}, changes
    )


def feedback(**changes: Any) -> dict[str, Any]:
    return _changed(
        {
            "event_id": "e-1",
            "customer_id": "ada",
            "ts": NOW_MS,
            "outcome": "dismiss",
            "recommendation_id": "r-1",
            "item_id": "mug",
        },
        changes,
    )


def _changed(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (fields | changes).items() if value is not ...}
