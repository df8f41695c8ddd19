"""The verdict of the chaos harness: what was found, held against what the oracle expects.

lost
    Events missing from customers' counts; insights, alerts of insights, dead letters and
    forwarded records missing; customers with a deed and without a list.
applied twice
    Events too many in customers' counts, those of erased customers included. Where a customer's
    counts are right and a sum or a time is wrong, another event was counted instead of the right
    one: one lost, one applied twice.
duplicate outputs
    Outputs that the oracle does not know, be it their id, their customer, their partition or
    their content. Under exactly once also every output too many for a ``read_committed`` reader.
repeats
    At least once: outputs too many, same id, same cause; allowed. Of insights, alerts about
    insights and dead letters the whole content must be the same (but for the time of a letter);
    of a list only the cause, of a churn alert only customer and day, as they follow the models
    of the moment.
"""

import base64
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.chaos.facts import Deed, home_of
from benchmarks.chaos.oracle import Expected, Letter, Place, Record, Tally

SHOWN = 5
DAY_MS = 86_400_000
OUTPUT_TOPICS = ("chat-insights", "dead-letters", "recommendations", "alerts", "segments")

Profile = Mapping[str, Any] | None
Output = dict[str, Any]


@dataclass(slots=True)
class Verdict:
    """The counts, see the module, and the first few differences in words."""

    lost: int = 0
    applied_twice: int = 0
    duplicate_outputs: int = 0
    repeats: int = 0
    differences: list[str] = field(default_factory=list)

    def tell(self, difference: str) -> None:
        """Keep a difference if it is one of the first."""
        if len(self.differences) < SHOWN:
            self.differences.append(difference)


class Judge:
    """Is given all outputs and profiles, and compares them with what is expected.

    Parameters
    ----------
    expected
        By the oracle.
    partitions
        Of the customer-keyed topics.
    exactly_once
        Whether an output may be there once only.
    """

    def __init__(self, expected: Expected, partitions: int, *, exactly_once: bool) -> None:
        self._expected = expected
        self._partitions = partitions
        self._exactly_once = exactly_once
        self._verdict = Verdict()
        self._contents: dict[tuple[str, str], str] = {}
        self._times: Counter[tuple[str, str]] = Counter()
        self._urgent: dict[str, Place | None] = {}
        self._listed: set[str] = set()

    def take(self, record: Record) -> None:
        """Take a record of an output topic."""
        topic = record.topic
        try:
            output = json.loads(record.value or b"")
            customer = output["topic" if topic == "dead-letters" else "customer_id"]
            complaint = self._complaint_about_place(record, customer)
            identifier, content = _READERS[topic](self, output)
        except (ValueError, LookupError, TypeError) as error:
            self._strange(record, repr(error))
            return
        key = (topic, identifier)
        self._times[key] += 1
        if self._contents.setdefault(key, content) != content:
            complaint = f"{identifier} was {self._contents[key]} before"
        if complaint is not None:
            self._strange(record, complaint)

    def judge(self, profiles: Mapping[str, Profile]) -> Verdict:
        """Compare everything that was taken, and these profiles; None is an unknown customer."""
        for customer in sorted(profiles):
            self._compare(customer, self._expected.tallies.get(customer), profiles[customer])
        self._count_missing()
        for key, times in self._times.items():
            self._count_repeats(" ".join(key), times - 1)
        for serial, (strays, copies) in self._expected.forwards.items():
            if copies < strays:
                self._miss(f"record {serial} was not forwarded", strays - copies)
            self._count_repeats(f"forwarded record {serial}", copies - strays)
        if self._expected.strangers:
            self._verdict.duplicate_outputs += self._expected.strangers
            self._verdict.tell(f"{self._expected.strangers} records were forwarded astray")
        return self._verdict

    # Outputs.

    def _complaint_about_place(self, record: Record, customer: str) -> str | None:
        if record.key != customer.encode():
            return f"its key is {record.key!r}"
        if record.topic == "dead-letters":
            return None
        if customer not in self._expected.customers:
            return "the customer is unknown"
        home = home_of(customer, self._partitions)
        return None if record.partition == home else f"it belongs in partition {home}"

    def _insight(self, output: Output) -> tuple[str, str]:
        deed = self._expected.chats[output["event_id"]]
        _require(output, customer_id=deed.customer, ts=deed.ts_ms)
        _require(output, conversation_id=deed.conversation)
        if output["escalate"]:
            self._urgent.setdefault(deed.event_id, None)
        return deed.event_id, json.dumps(output)

    def _letter(self, output: Output) -> tuple[str, str]:
        identifier = str(Place(output["topic"], output["partition"], output["offset"]))
        letter = self._expected.letters[identifier]
        _require(output, id=identifier, stage=letter.stage)
        _require(output, key=None if letter.key is None else letter.key.decode())
        _require(output, value=_base64_of(letter), value_bytes=len(letter.value or b""))
        return identifier, json.dumps({**output, "ts": None})

    def _list(self, output: Output) -> tuple[str, str]:
        place, deed = self._cause(output)
        _require(output, recommendation_id=f"recommendation-{place}")
        self._listed.add(deed.customer)
        return str(output["recommendation_id"]), json.dumps(output["trigger"])

    def _alert(self, output: Output) -> tuple[str, str]:
        identifier = str(output["alert_id"])
        if output["kind"] == "sentiment_escalation":
            place, deed = self._cause(output)
            _require(output, alert_id=f"sentiment_escalation-{place}", ts=deed.ts_ms)
            self._urgent[deed.event_id] = place
            return identifier, json.dumps(output)
        customer = output["customer_id"]
        day = output["trigger"]["sweep_ts"] // DAY_MS
        _require(output, kind="churn_risk", alert_id=f"churn_risk-{customer}-{day}")
        if customer in self._expected.erased:
            # Nothing is remembered of an earlier life, not even what was alerted to.
            return f"{identifier} at {output['ts']}", ""
        return identifier, ""

    def _segment(self, output: Output) -> tuple[str, str]:
        """Return the whole record as its id: it has none, and is not told twice in a row."""
        return json.dumps(output), ""

    def _cause(self, output: Output) -> tuple[Place, Deed]:
        trigger = output["trigger"]
        place = Place(trigger["topic"], trigger["partition"], trigger["offset"])
        deed = self._expected.triggers[place]
        _require(trigger, event_id=deed.event_id)
        _require(output, customer_id=deed.customer)
        return place, deed

    def _strange(self, record: Record, why: str) -> None:
        self._verdict.duplicate_outputs += 1
        where = Place(record.topic, record.partition, record.offset)
        self._verdict.tell(f"{where} is not as it must be: {why}: {(record.value or b'')[:300]!r}")

    def _count_missing(self) -> None:
        for what, wanted in (
            ("chat-insights", self._expected.chats),
            ("dead-letters", self._expected.letters),
        ):
            for identifier in wanted:
                if not self._times[what, identifier]:
                    self._miss(f"{what} has nothing about {identifier}")
        for customer, tally in self._expected.tallies.items():
            if tally.events and customer not in self._listed:
                self._miss(f"customer {customer} has no list")
        for event_id, place in self._urgent.items():
            if place is None:
                self._miss(f"nobody was alerted to chat {event_id}")

    def _miss(self, what: str, count: int = 1) -> None:
        self._verdict.lost += count
        self._verdict.tell(what)

    def _count_repeats(self, what: str, count: int) -> None:
        if count > 0 and self._exactly_once:
            self._verdict.duplicate_outputs += count
            self._verdict.tell(f"{count} too many of {what[:300]}")
        elif count > 0:
            self._verdict.repeats += count

    # Profiles.

    def _compare(self, customer: str, tally: Tally | None, profile: Profile) -> None:
        wanted = Tally() if tally is None else tally
        found = {name: (profile or {}).get(name) or 0 for name in ("clicks", "orders", "chats")}
        lost = twice = 0
        for name, count in found.items():
            lost += max(0, getattr(wanted, name) - count)
            twice += max(0, count - getattr(wanted, name))
        differing = _differences(tally, profile)
        if differing and not lost and not twice:
            lost = twice = 1
        self._verdict.lost += lost
        self._verdict.applied_twice += twice
        if differing:
            self._verdict.tell(f"customer {customer}: {differing}")


_READERS = {
    "chat-insights": Judge._insight,
    "dead-letters": Judge._letter,
    "recommendations": Judge._list,
    "alerts": Judge._alert,
    "segments": Judge._segment,
}


def _require(found: Mapping[str, Any], **wanted: Any) -> None:
    for name, value in wanted.items():
        if found[name] != value:
            raise ValueError(f"{name} is {found[name]!r}, must be {value!r}")


def _base64_of(letter: Letter) -> str | None:
    return None if letter.value is None else base64.b64encode(letter.value).decode()


def _differences(tally: Tally | None, profile: Profile) -> str:
    """Say what differs, as in ``clicks: expected 3, found 2``; nothing where nothing does."""
    if tally is None or profile is None:
        if tally is None and profile is None:
            return ""
        return f"expected {tally or 'unknown'}, found {profile or 'unknown'}"
    return ", ".join(
        f"{name}: expected {value}, found {profile.get(name)}"
        for name, value in asdict(tally).items()
        if profile.get(name) != value
    )
