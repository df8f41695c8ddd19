from typing import Any

import msgspec

from benchmarks.sender import Sent
from benchmarks.tally import CustomerTally, Tally, check_events, check_lists, check_profile


def click(event: str, customer: str, action: str = "view") -> dict[str, Any]:
    return {"event_id": event, "customer_id": customer, "action": action}


def order(event: str, customer: str, *lines: tuple[int, float]) -> dict[str, Any]:
    items = [{"item_id": "i", "quantity": units, "unit_price": price} for units, price in lines]
    return {"event_id": event, "customer_id": customer, "items": items}


def some_tally() -> Tally:
    tally = Tally()
    tally.add("clicks", click("1", "ada"))
    tally.add("clicks", click("2", "ada", "cart"))
    tally.add("purchases", order("3", "ada", (2, 1.5), (1, 4.0)))
    tally.add("chats", {"event_id": "4", "customer_id": "bob"})
    return tally


def test_the_tally_counts_what_each_customer_did() -> None:
    tally = some_tally()
    assert tally.events == {"clicks": 2, "purchases": 1, "chats": 1}
    assert tally.total == 4
    assert tally.customers["ada"] == CustomerTally(
        clicks=2,
        carts=1,
        orders=1,
        items_bought=3,
        spend=7.0,
    )
    assert tally.customers["bob"] == CustomerTally(chats=1)


def test_merged_tallies_equal_one_tally_over_everything() -> None:
    first, second, whole = Tally(), Tally(), Tally()
    for event in range(20):
        record = click(str(event), f"customer {event % 3}")
        (first if event < 12 else second).add("clicks", record)
        whole.add("clicks", record)
    first.merge(second)
    assert first == whole


def test_a_count_of_events_that_is_off_is_named() -> None:
    sent = some_tally()
    assert check_events(sent, {"clicks": 2, "purchases": 1, "chats": 1, "customers": 9}) == []
    problems = check_events(sent, {"clicks": 3, "purchases": 1})
    assert problems == ["chats: 0 events applied, 1 sent", "clicks: 3 events applied, 2 sent"]


def test_a_profile_must_agree_in_every_count() -> None:
    ada = some_tally().customers["ada"]
    told = {"clicks": 2, "carts": 1, "orders": 1, "items_bought": 3, "spend": 7.0, "chats": 0}
    assert check_profile("ada", ada, told) == []
    assert check_profile("ada", ada, told | {"spend": 7.000000001}) == []
    assert len(check_profile("ada", ada, told | {"spend": 7.01, "clicks": 3})) == 2
    assert len(check_profile("ada", ada, {})) == 6
    assert check_profile("ada", ada, None) == ["customer ada: unknown to the worker"]


def test_every_customer_who_did_something_must_have_a_list() -> None:
    tally = some_tally()
    assert check_lists(tally, {"ada", "bob", "someone else"}) == []
    assert check_lists(tally, {"ada"}) == ["1 customers without a list: bob"]


def test_what_was_sent_survives_the_pipe() -> None:
    sent = Sent(some_tally(), 1.5, {"1": 17}, 0.01)
    assert msgspec.json.decode(msgspec.json.encode(sent), type=Sent) == sent
