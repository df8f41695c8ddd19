"""How a setting is declared, and how a value from any source is read and checked.

`streams.settings` holds the settings themselves; what is here knows none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, get_args, get_type_hints

from streams.errors import SettingsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_NOUNS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
}


@dataclass(frozen=True, slots=True)
class About:
    """What is to be known of a setting beside its type and its default.

    Attributes
    ----------
    help
        One line for people.
    low, high
        The range, both ends included; None where there is none.
    choices
        The values it can have; empty where any will do.
    complaint
        Tells what is wrong with a text, or None where nothing is.
    secret
        Whether its value must not be shown.
    """

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    complaint: Callable[[str], str | None] = lambda _: None
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Declared:
    """A field of the settings as every source of values sees it.

    Attributes
    ----------
    name
        The field's name.
    kind
        Type of its values: str, int, float, bool or Path.
    default
        Its default; where this is None, None is a value.
    about
        Help and range.
    """

    name: str
    kind: type
    default: object
    about: About

    def take(self, raw: object, source: str) -> object:
        """Check a value from a flag or a TOML file and bring it to the field's type."""
        value = raw
        if self.kind is float and type(raw) is int:
            value = float(raw)
        elif self.kind is Path and isinstance(raw, str):
            value = Path(raw)
        self.check(value, self.shown(source, raw))
        return value

    def parse(self, text: str, source: str) -> object:
        """Read a value from a string and check it."""
        shown = self.shown(source, text)
        value: object = text
        if self.kind is bool:
            value = _TRUTHS.get(text.lower(), text)
        elif self.kind is not str:
            try:
                value = self.kind(text)
            except ValueError:
                raise SettingsError(f"{shown}: must be {_NOUNS[self.kind]}") from None
        self.check(value, shown)
        return value

    def check(self, value: object, shown: str) -> None:
        """Refuse a value of the wrong type or out of range, in a line that starts with `shown`."""
        if value is None and self.default is None:
            return
        # A whole number will do for a number; True and False, which Python counts as 0 and 1, not.
        fits = isinstance(value, int | float if self.kind is float else self.kind)
        if not fits or (isinstance(value, bool) and self.kind is not bool):
            raise SettingsError(f"{shown}: must be {_NOUNS[self.kind]}")
        complaint = self._complaint(value)
        if complaint is not None:
            raise SettingsError(f"{shown}: {complaint}")

    def shown(self, source: str, value: object) -> str:
        """Name a source and its value, or only the source of a secret."""
        return source if self.about.secret else f"{source}={value}"

    def _complaint(self, value: object) -> str | None:
        about = self.about
        if about.choices and value not in about.choices:
            return f"must be one of {', '.join(about.choices)}"
        if isinstance(value, str):
            return about.complaint(value) if value.strip() else "must not be empty"
        if about.low is None or about.high is None or not isinstance(value, int | float):
            return None
        # Written so that NaN, which compares false with everything, is refused.
        return (
            None
            if about.low <= value <= about.high
            else f"must be between {about.low} and {about.high}"
        )


def declare(settings: type[DataclassInstance]) -> dict[str, Declared]:
    """Read the fields of a dataclass whose annotations are ``Annotated[type, About(...)]``."""
    hints = get_type_hints(settings, include_extras=True)
    declared = {}
    for each in fields(settings):
        hint, about = get_args(hints[each.name])
        # Of "Path | None", the type is Path: None is told by the default.
        kind = next(iter(get_args(hint)), hint)
        declared[each.name] = Declared(each.name, kind, each.default, about)
    return declared
