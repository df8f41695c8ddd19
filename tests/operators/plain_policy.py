"""The policy of lists once more, as a plain loop over sets and dictionaries."""

import math
from dataclasses import dataclass, field

from operators.policy import OUTSIDE, Act, Options, Rule, Scope, Target

NOW_MS = 1_000


@dataclass
class Case:
    """One customer's wide list and all that the policy is told."""

    options: Options
    labels: dict[str, tuple[str | None, list[str]]]
    rules: list[Rule]
    wide: list[tuple[str, float, int]]
    n: int
    barred: set[str]
    customer: str
    segment: str
    bought: list[str]
    seen: list[str]
    excluded: list[str]


@dataclass
class Told:
    """A list and the rules that acted on it."""

    places: list[int] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    rules: list[list[str]] = field(default_factory=list)
    acted: set[str] = field(default_factory=set)


class Plain:
    """The policy once more, slowly."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.rules = sorted(
            (rule for rule in case.rules if self.is_for_this_list(rule)),
            key=lambda rule: (rule.act, rule.scope, rule.rule_id),
        )
        self.scores = {item: score for item, score, _ in case.wide}
        self.events = {item: events for item, _, events in case.wide}
        self.open = [item for item in self.scores if not self.is_dropped(item)]
        self.touched: dict[str, list[Rule]] = {item: [] for item in self.scores}
        self.positions: dict[int, str] = {}
        self.pins: dict[int, Rule] = {}
        self.acted: set[str] = set()

    def is_for_this_list(self, rule: Rule) -> bool:
        whom = {Scope.EVERYONE: "", Scope.SEGMENT: self.case.segment}
        return rule.is_valid_at(NOW_MS) and rule.whom == whom.get(rule.scope, self.case.customer)

    def is_dropped(self, item: str) -> bool:
        options, category = self.case.options, self.case.labels.get(item, (None, []))[0]
        if item in self.case.barred:
            return True
        unrepeatable = category in options.unrepeatable
        if category in options.repeatable and not unrepeatable:
            return False
        drop_bought = options.drop_bought or unrepeatable
        return (drop_bought and item in self.case.bought) or (
            options.drop_seen and item in self.case.seen
        )

    def labels(self, item: str) -> set[tuple[str, str]]:
        category, tags = self.case.labels.get(item, (None, []))
        return {("category", each) for each in [category] if each} | {("tag", t) for t in tags}

    def speaking_of(self, item: str) -> list[Rule]:
        category, tags = self.case.labels.get(item, (None, []))
        names: dict[Target, list[str | None]] = {
            Target.ITEM: [item],
            Target.CATEGORY: [category],
            Target.TAG: [*tags],
        }
        return [rule for rule in self.rules if rule.name in names[rule.target]]

    def excluding(self, item: str) -> set[str]:
        return {rule.rule_id for rule in self.speaking_of(item) if rule.act is Act.EXCLUDE}

    def apply_rules(self) -> None:
        for item in list(self.open):
            excluding = self.excluding(item)
            if excluding:
                self.acted |= excluding
                self.open.remove(item)
                continue
            for rule in self.speaking_of(item):
                if rule.act in (Act.BOOST, Act.BURY):
                    self.scores[item] *= rule.factor
                    self.touched[item].append(rule)
                if rule.act is Act.BURY:
                    self.acted.add(rule.rule_id)

    def pinned(self, rule: Rule) -> str | None:
        if rule.target is not Target.ITEM:
            matching = [item for item in self.open if rule in self.speaking_of(item)]
            return max(matching, key=self.scores.__getitem__, default=None)
        item = rule.name
        if item in {*self.case.barred, *self.positions.values(), *self.case.excluded}:
            return None
        self.acted |= self.excluding(item)
        return None if self.excluding(item) else item

    def place_pins(self) -> None:
        for rule in self.rules:
            places = range(rule.position - 1, self.case.n)
            free = [place for place in places if place not in self.positions]
            item = self.pinned(rule) if rule.act is Act.PIN and free else None
            if item is not None:
                self.put(free[0], item)
                self.pins[free[0]] = rule
                self.acted.add(rule.rule_id)

    def put(self, position: int, item: str) -> None:
        self.positions[position] = item
        if item in self.open:
            self.open.remove(item)

    def is_new(self, item: str) -> bool:
        return self.events.get(item, math.inf) < self.case.options.new_item_events

    def has_room(self, item: str) -> bool:
        most = self.case.options.max_per_category
        category = self.case.labels.get(item, (None, []))[0]
        same = [
            other
            for other in self.positions.values()
            if category and self.case.labels.get(other, (None, []))[0] == category
        ]
        return most == 0 or len(same) < most

    def likeness(self, left: str, right: str) -> float:
        either = self.labels(left) | self.labels(right)
        return len(self.labels(left) & self.labels(right)) / len(either) if either else 0.0

    def value(self, item: str, greatest: float) -> float:
        share = self.case.options.diversity
        if share == 0.0:
            return self.scores[item]
        scale = 1.0 / greatest if greatest > 0 else 0.0
        likest = max((self.likeness(item, other) for other in self.positions.values()), default=0.0)
        return (1.0 - share) * self.scores[item] * scale - share * likest

    def fill(self) -> None:
        options = self.case.options
        greatest = max((self.scores[item] for item in self.open), default=0.0)
        for position in range(self.case.n):
            if position in self.positions:
                continue
            fitting = [item for item in self.open if self.has_room(item)]
            found = sum(self.is_new(item) for item in self.positions.values())
            if options.min_new_items - found >= self.case.n - len(self.positions):
                fitting = [item for item in fitting if self.is_new(item)] or fitting
            if not fitting:
                break
            self.put(position, max(fitting, key=lambda item: self.value(item, greatest)))

    def make(self) -> Told:
        self.apply_rules()
        self.place_pins()
        self.fill()
        told, wide = Told(acted=self.acted), [item for item, _, _ in self.case.wide]
        for position, item in sorted(self.positions.items()):
            is_inside = item in wide
            told.places.append(wide.index(item) if is_inside else OUTSIDE)
            told.items.append(item)
            told.scores.append(min(self.scores[item], 1.0) if is_inside else 0.0)
            touched = self.touched.get(item, [])
            pins = [self.pins[position]] if position in self.pins else []
            told.rules.append([rule.rule_id for rule in pins + touched][:4])
            told.acted |= {rule.rule_id for rule in touched}
        return told
