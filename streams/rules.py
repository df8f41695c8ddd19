"""Business rules of recommendation lists, as the topic `rules` has them."""

from dataclasses import dataclass
from typing import NamedTuple

from msgspec.json import Decoder

from operators.errors import ParameterError
from operators.policy import Act, Policy, Rule, Scope, Target
from operators.policy_rules import EARLIEST_MS, LATEST_MS
from streams import records
from streams.decode import decode_keyed
from streams.fields import too_long
from streams.records import ID_MAX_CHARACTERS, Record, milliseconds_of, text_of
from streams.rejects import Reason, RefusedError, Reject, reason_of, reject

_RULES = Decoder(records.Rule)
FACTORS = {Act.BOOST: 2.0, Act.BURY: 0.5}
"""What a rule without a factor multiplies by."""


@dataclass(frozen=True, slots=True)
class RuleChange:
    """One change of the rules: the rule as it is now, or None where it was removed."""

    rule_id: str
    rule: Rule | None


class _Named(NamedTuple):
    """Whom or what a rule names."""

    field: str
    name: str


def decode_rule(record: Record) -> RuleChange | Reject:
    """Decode one record of the topic `rules`, where a record without a value means remove.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> value = b'{"rule_id":"r","action":"boost","tag":"new","segment":"champions"}'
    >>> record = SimpleNamespace(offset=3, timestamp=0, key=b"r", value=value, headers=())
    >>> rule = decode_rule(record).rule
    >>> rule.act.name, rule.target.name, rule.name, rule.scope.name, rule.whom, rule.factor
    ('BOOST', 'TAG', 'new', 'SEGMENT', 'champions', 2.0)
    >>> record.value = b'{"rule_id":"r","action":"boost","tag":"new","item_id":"tea"}'
    >>> decode_rule(record).error
    'a rule speaks of exactly one of item_id, category and tag, this one of item_id and tag'
    """
    try:
        change = decode_keyed(record, _RULES, "rule_id")
        rule_id, told = change
        return RuleChange(rule_id, None if told is None else _rule(rule_id, told))
    except ParameterError as error:
        return reject(record, 0, Reason.INVALID_RULE, str(error))
    except (ValueError, RecursionError) as error:
        return reject(record, 0, reason_of(error), str(error))


def _rule(rule_id: str, told: records.Rule) -> Rule:
    targets = _named(told, "item_id", "category", "tag")
    if len(targets) != 1:
        these = " and ".join(target.field for target in targets) or "none"
        error = f"a rule speaks of exactly one of item_id, category and tag, this one of {these}"
        raise RefusedError(Reason.INVALID_RULE, error)
    whom = _named(told, "segment", "customer_id")
    if len(whom) > 1:
        error = "a rule is for a segment or for a customer, not for both"
        raise RefusedError(Reason.INVALID_RULE, error)
    act = Act[told.action.upper()]
    times = {
        "from_ms": EARLIEST_MS if told.valid_from is None else milliseconds_of(told.valid_from),
        "until_ms": LATEST_MS if told.valid_until is None else milliseconds_of(told.valid_until),
    }
    factor = FACTORS.get(act, 1.0) if told.factor is None else told.factor
    return Rule(
        rule_id,
        act,
        Target[targets[0].field.removesuffix("_id").upper()],
        targets[0].name,
        Scope[whom[0].field.removesuffix("_id").upper()] if whom else Scope.EVERYONE,
        whom[0].name if whom else "",
        factor,
        told.position or 1,
        **times,
    )


def _named(told: records.Rule, *fields: str) -> list[_Named]:
    """Return those of the fields that the record has."""
    named = []
    for field in fields:
        value = getattr(told, field)
        if value is None:
            continue
        if len(text_of(value)) > ID_MAX_CHARACTERS:
            raise RefusedError(*too_long(field))
        named.append(_Named(field, text_of(value)))
    return named


class Rules:
    """Takes changes of the rules to the policy of lists."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def __len__(self) -> int:
        return len(self._policy.rules)

    def apply(self, change: RuleChange) -> None:
        """Add, replace or remove one rule.

        Raises
        ------
        RefusedError
            Where there is no room for one more; those that are there stay.
        """
        if change.rule is None:
            self._policy.remove_rule(change.rule_id)
        elif not self._policy.put_rule(change.rule):
            most = self._policy.rules.max_rules
            error = f"rule {change.rule_id}: there are {most} rules already, see max_rules"
            raise RefusedError(Reason.TOO_MANY_RULES, error)
