"""What is remembered of trouble in a partition, so that the next try goes differently."""

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_POISON = 1_000
"""More records than this that make applying raise are no accident."""

MAX_FAILED_CHECKPOINTS = 8
"""After so many in a row it is not going to work."""

FENCED_SECONDS = 3.0
"""Who was fenced has most likely lost the partition, and is about to be told so by the group."""


@dataclass(slots=True)
class Caution:
    """Trouble of one partition; it outlives reopening, and is forgotten once it lies behind.

    Attributes
    ----------
    poison
        Why applying the record at (topic, offset) raised; it becomes a dead letter.
    careful_until
        Records of a topic below this offset are applied one by one.
    failed_checkpoints
        How many failed since the last good one.
    was_fenced
        Whether the last one failed because another worker has opened the partition.
    """

    poison: dict[tuple[str, int], str] = field(default_factory=dict)
    careful_until: dict[str, int] = field(default_factory=dict)
    failed_checkpoints: int = 0
    was_fenced: bool = False

    @property
    def pause_seconds(self) -> float:
        """How long to wait before the next try; 0 where nothing failed."""
        if not self.failed_checkpoints:
            return 0.0
        if self.was_fenced:
            return FENCED_SECONDS
        return float(min(0.1 * 2**self.failed_checkpoints, 5.0))

    def be_careful(self, topic: str, until: int) -> None:
        """Have records of `topic` below `until` applied one by one."""
        self.careful_until[topic] = max(self.careful_until.get(topic, 0), until)

    def forget(self, durable: Mapping[str, int]) -> None:
        """Drop what lies behind durable offsets: a checkpoint succeeded."""
        self.failed_checkpoints = 0
        self.was_fenced = False
        for topic, offset in list(self.poison):
            if offset < durable.get(topic, 0):
                del self.poison[topic, offset]
        for topic, until in list(self.careful_until.items()):
            if until <= durable.get(topic, 0):
                del self.careful_until[topic]
