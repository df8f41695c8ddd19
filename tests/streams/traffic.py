"""Interleaved events of the same customers, and what must come of them."""

import random
from collections import Counter
from collections.abc import Sequence

from tests.streams.workers import Sent, WorkerProcess, chat, click, order

CUSTOMERS = [f"customer-{number}" for number in range(40)]
FIELDS = ("clicks", "orders", "items_bought", "spend", "chats")
Truth = Counter[tuple[str, str]]


def traffic(seed: int, events: int) -> tuple[list[Sent], Truth]:
    """Draw interleaved events of the same customers, and count what must come of them."""
    draw = random.Random(seed)
    records: list[Sent] = []
    truth: Truth = Counter()
    for number in range(events):
        customer = draw.choice(CUSTOMERS)
        n = seed * 1_000_000 + number
        kind = draw.choices(("click", "order", "chat"), (8, 2, 1))[0]
        if kind == "click":
            records.append(
                click(customer, n % 86_400, f"item-{draw.randrange(50)}", event_id=f"c{n}")
            )
            truth[customer, "clicks"] += 1
        elif kind == "order":
            topic, key, record = order(customer, n % 86_400, ("mug", 2, 1.5), ("cup", 1, 1.0))
            records.append((topic, key, {**record, "event_id": f"p{n}"}))
            truth[customer, "orders"] += 1
            truth[customer, "items_bought"] += 3
            truth[customer, "spend"] += 4
        else:
            records.append(chat(customer, n % 86_400, "thank you", event_id=f"t{n}"))
            truth[customer, "chats"] += 1
    return records, truth


def check(workers: Sequence[WorkerProcess], truth: Truth) -> None:
    """Compare every customer's profile, whichever worker is asked, with what was sent."""
    for customer in {customer for customer, _ in truth}:
        for worker in workers:
            profile = worker.profile(customer)
            for field in FIELDS:
                assert profile[field] == truth[customer, field], (customer, field)


def settled(*workers: WorkerProcess) -> bool:
    """Tell whether everything is applied and every list is paid."""
    return all(
        worker.metric("crm_consumer_lag") == 0 and worker.metric("crm_lists_owed") == 0
        for worker in workers
    )


def chats_of(truth: Truth) -> int:
    """Return how many messages were sent."""
    return sum(count for (_, field), count in truth.items() if field == "chats")


def events_of(truth: Truth) -> int:
    """Return how many events were sent."""
    return int(sum(n for (_, field), n in truth.items() if field in ("clicks", "orders", "chats")))
