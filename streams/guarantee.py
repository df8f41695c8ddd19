"""What the broker lets the engine promise; found out by trying, not guessed."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    UnknownError,
    UnsupportedVersionError,
)

from streams.changelog import TransactionalProducer
from streams.errors import GuaranteeError

if TYPE_CHECKING:
    from streams.settings import Settings

log = logging.getLogger(__name__)

EXACTLY_ONCE, AT_LEAST_ONCE = "exactly_once", "at_least_once"


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What a worker does with its checkpoints.

    Attributes
    ----------
    changelog
        Whether every checkpoint is copied to the changelog, in one transaction.
    exactly_once
        Whether outputs are part of that transaction; else they are sent at once, and may repeat
        with the same id.
    """

    changelog: bool
    exactly_once: bool

    def __str__(self) -> str:
        if self.exactly_once:
            return "exactly once, with a changelog"
        if self.changelog:
            return "at least once, with a changelog"
        return "at least once, state on the local disk only"


LOCAL_ONLY = Guarantee(changelog=False, exactly_once=False)


async def find_guarantee(settings: Settings) -> Guarantee:
    """Find out what the worker can promise on this broker, and hold it against what is wanted.

    Raises
    ------
    GuaranteeError
        Where the settings ask for what the broker does not offer.
    """
    if not settings.changelog:
        return LOCAL_ONLY
    refusal = await _refusal(settings)
    if refusal is None:
        return Guarantee(changelog=True, exactly_once=settings.guarantee != AT_LEAST_ONCE)
    for wanted in ("guarantee=exactly_once", "standby=1"):
        name, _, value = wanted.partition("=")
        if str(getattr(settings, name)) == value:
            raise GuaranteeError(
                f"{wanted} needs a broker with transactions, and {settings.broker} refuses them "
                f"({refusal}): use Apache Kafka, or leave {name} out"
            )
    log.warning("the broker has no transactions (%s): there will be no changelog", refusal)
    return LOCAL_ONLY


async def _refusal(settings: Settings) -> str | None:
    """Try to become a transactional producer; return why the broker refuses, None if it does not.

    The id is the same for every worker, so that trying leaves no more than one id behind.
    """
    producer = TransactionalProducer(settings, f"{settings.app_id}-probe")
    try:
        await producer.start()
    except (UnknownError, UnsupportedVersionError, IncompatibleBrokerVersion) as error:
        return repr(error)
    except KafkaError as error:
        # A broken connection, say, or missing rights: no reason to promise less.
        raise GuaranteeError(f"{settings.broker}: cannot try a transaction: {error!r}") from error
    finally:
        # To the end, even when this is cancelled: an open producer would warn at exit.
        await asyncio.shield(producer.discard())
    return None
