"""Every topic, declared once: what it carries, how it is keyed, how it is kept.

Records of the source topics and of most outputs are keyed by customer, and all customer-keyed
topics have the same number of partitions, so that everything about one customer meets in one
partition number. The other topics have one partition: they are small, and order matters there.
Only the models' topic has two, of which each holds records of one kind.
"""

from dataclasses import dataclass
from enum import StrEnum

from streams.settings import DEFAULT_APP_ID, Settings


class Direction(StrEnum):
    """Who writes a topic and who reads it."""

    IN = "in"
    OUT = "out"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic.

    Attributes
    ----------
    name
        As on the broker; an internal topic's is prefixed by `name_of`.
    direction
        In: a CRM writes it. Out: a CRM reads it. Internal: only workers do.
    about
        One line for people.
    key_field
        The field of a record that is its key too.
    per_partition
        Whether it has `Settings.partitions` partitions without being keyed by customer.
    compacted
        Whether the broker keeps the latest record of each key for ever. A key without value
        (a tombstone) removes it.
    fixed_partitions
        How many partitions it has, where that follows from no setting.
    kept_bytes
        Where above 0, the broker keeps the newest records only: this many bytes of each partition
        and at most `SEGMENT_BYTES` more, however old they are.
    """

    name: str
    direction: Direction
    about: str
    key_field: str = "customer_id"
    per_partition: bool = False
    compacted: bool = False
    fixed_partitions: int = 1
    kept_bytes: int = 0

    @property
    def customer_keyed(self) -> bool:
        """Whether records are keyed by customer; such topics have `Settings.partitions` of them."""
        return self.key_field == "customer_id"

    def partitions(self, settings: Settings) -> int:
        """Return how many partitions the topic has.

        Examples
        --------
        >>> CLICKS.partitions(Settings(partitions=4)), CATALOG.partitions(Settings(partitions=4))
        (4, 1)
        """
        if self.customer_keyed or self.per_partition:
            return settings.partitions
        return self.fixed_partitions

    def config(self) -> dict[str, str]:
        """Return the topic's configuration where it differs from the broker's defaults.

        A tombstone of a compacted topic can be read for `TOMBSTONE_DAYS` days; a worker that was
        away for longer than that must read the topic from its start.
        """
        if self.kept_bytes:
            return {
                "cleanup.policy": "delete",
                "retention.bytes": str(self.kept_bytes),
                "retention.ms": "-1",
                "segment.bytes": str(SEGMENT_BYTES),
            }
        if not self.compacted:
            return {}
        return {
            "cleanup.policy": "compact",
            "delete.retention.ms": str(TOMBSTONE_DAYS * 86_400_000),
        }

    def name_of(self, settings: Settings) -> str:
        """Return the topic's name on the broker.

        Examples
        --------
        >>> MODELS.name_of(Settings()), MODELS.name_of(Settings(app_id="shop"))
        ('crm-models', 'shop-crm-models')
        >>> CLICKS.name_of(Settings(app_id="shop"))
        'clicks'
        """
        if self.direction is not Direction.INTERNAL or settings.app_id == DEFAULT_APP_ID:
            return self.name
        return f"{settings.app_id}-{self.name}"


TOMBSTONE_DAYS = 7
SEGMENT_BYTES = 64 << 20
"""A broker deletes whole segments only; its own default of 1 GiB would double what is kept."""

_IN, _OUT, _INTERNAL = Direction.IN, Direction.OUT, Direction.INTERNAL

CLICKS = Topic("clicks", _IN, "Views, carts, searches and other actions of customers.")
PURCHASES = Topic("purchases", _IN, "Orders with their lines.")
CHATS = Topic("chats", _IN, "Messages of conversations.")
CUSTOMERS = Topic(
    "customers", _IN, "Who a customer is, and their consent; a tombstone erases.", compacted=True
)
ACTIVITIES = Topic("activities", _IN, "What was done about a deal.")
FEEDBACK = Topic("feedback", _IN, "What became of a recommendation or a decision.")
PRIVACY_REQUESTS = Topic("privacy-requests", _IN, "Erase, export, restrict, unrestrict.")
CATALOG = Topic(
    "catalog", _IN, "Items; a tombstone removes one.", key_field="item_id", compacted=True
)
RULES = Topic("rules", _IN, "Business rules.", key_field="rule_id", compacted=True)

RECOMMENDATIONS = Topic("recommendations", _OUT, "Items for a customer; the latest list counts.")
ALERTS = Topic("alerts", _OUT, "What a person should look at.")
SEGMENTS = Topic("segments", _OUT, "A customer moved to another segment.")
FORECASTS = Topic("forecasts", _OUT, "What a customer is expected to buy.")
DECISIONS = Topic("decisions", _OUT, "What to do next for a customer.")
DEAL_LEVELS = Topic("deal-levels", _OUT, "How warm a deal is.")
CHAT_INSIGHTS = Topic("chat-insights", _OUT, "Sentiment and intent of a message.")
DEAD_LETTERS = Topic(
    "dead-letters", _OUT, "Records that could not be processed.", key_field="topic"
)

# Kept by bytes alone: the last snapshot before a quiet month is needed after it all the same.
MODELS = Topic(
    "crm-models",
    _INTERNAL,
    "What workers learned, for each other.",
    key_field="worker",
    fixed_partitions=2,
    kept_bytes=1 << 30,
)
CHANGELOG = Topic(
    "crm-changelog",
    _INTERNAL,
    "Copy of the local state.",
    key_field="row",
    per_partition=True,
    compacted=True,
)

ALL: tuple[Topic, ...] = (
    CLICKS,
    PURCHASES,
    CHATS,
    CUSTOMERS,
    ACTIVITIES,
    FEEDBACK,
    PRIVACY_REQUESTS,
    CATALOG,
    RULES,
    RECOMMENDATIONS,
    ALERTS,
    SEGMENTS,
    FORECASTS,
    DECISIONS,
    DEAL_LEVELS,
    CHAT_INSIGHTS,
    DEAD_LETTERS,
    MODELS,
    CHANGELOG,
)

SOURCES: tuple[str, ...] = (
    CLICKS.name,
    PURCHASES.name,
    CHATS.name,
    CUSTOMERS.name,
    FEEDBACK.name,
)
"""The topics that agents process, each with its own agent.

Rows name a topic by its place in it, so a new one goes last.
"""

_BY_NAME = {topic.name: topic for topic in ALL}


def find(name: str) -> Topic | None:
    """Return the topic called `name`, or None where it is not one of ours.

    Examples
    --------
    >>> find("alerts").customer_keyed
    True
    >>> find("weather") is None
    True
    """
    return _BY_NAME.get(name)
