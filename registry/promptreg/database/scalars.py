"""Hyperparameters and metrics as rows: typed, searchable, and given back exactly as they came.

A number is searched for in ``number``, all else in ``text``; there a boolean is the word ``true`` or
``false``. Text beyond 200 characters continues in ``rest``, outside the index. An integer that a double
cannot hold keeps its digits in ``text``.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from promptreg.errors import InvalidNameError, InvalidValueError
from promptreg.prompts import Scalar

__all__ = [
    "HEAD",
    "StoredScalar",
    "check_scalars",
    "check_text",
    "exact_digits",
    "from_row",
    "split",
    "to_row",
]

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./-]{0,126}[A-Za-z0-9_])?", re.ASCII)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
HEAD = 200
"""So many characters of a text are indexed."""
_MOST_DIGITS = 300


@dataclass(frozen=True, slots=True)
class StoredScalar:
    """A value as the columns of a row."""

    kind: str
    number: float | None = None
    text: str | None = None
    rest: str | None = None

    def columns(self) -> dict[str, object]:
        """Return them by name."""
        return {"kind": self.kind, "number": self.number, "text": self.text, "rest": self.rest}


def check_scalars(kind: str, scalars: Mapping[str, Scalar]) -> None:
    """Return if all names and values can be stored and searched for.

    Args:
        kind: What they are: ``hyperparameter`` or ``metric``.
        scalars: The values by name.

    Raises:
        InvalidNameError: A name is outside the grammar.
        InvalidValueError: A value is not finite, too large, or no text that a database takes.
    """
    for name, value in scalars.items():
        if not _NAME.fullmatch(name):
            rule = (
                "at most 128 letters, digits, '_', '.', '-' and '/', the last three not at an end"
            )
            raise InvalidNameError(f"name of a {kind}", name, rule)
        what = f"the {kind} {name!r}"
        if isinstance(value, str):
            check_text(what, value)
        elif not isinstance(value, bool | int | float):
            reason = f"it is a {type(value).__name__}"
            raise InvalidValueError(what, str(value), reason, "give a number, a text or a boolean")
        elif isinstance(value, float) and not math.isfinite(value):
            raise InvalidValueError(what, str(value), "it is no finite number", "leave it out")
        elif isinstance(value, int) and abs(value) >= 10**_MOST_DIGITS:
            reason = f"it has more than {_MOST_DIGITS} digits"
            raise InvalidValueError(what, "so large", reason, "give it as text")


def check_text(what: str, text: str) -> None:
    """Return if a database can store ``text``.

    Raises:
        InvalidValueError: It holds a NUL character or half of a surrogate pair.
    """
    if "\0" in text or _LONE_SURROGATE.search(text):
        reason = "it holds characters that no text has (NUL or a lone surrogate)"
        raise InvalidValueError(what, text, reason, "remove them")


def to_row(value: Scalar) -> StoredScalar:
    """Return the columns that hold ``value``."""
    if isinstance(value, bool):
        return StoredScalar("bool", text="true" if value else "false")
    if isinstance(value, int):
        return StoredScalar("int", number=float(value), text=exact_digits(value))
    if isinstance(value, float):
        return StoredScalar("float", number=value)
    head, rest = split(value)
    return StoredScalar("text", text=head, rest=rest)


def from_row(kind: str, number: float | None, text: str | None, rest: str | None) -> Scalar:
    """Return the value that these columns hold."""
    if kind == "float" and number is not None:
        return number
    if kind == "int":
        return int(text or number or 0)
    return text == "true" if kind == "bool" else f"{text}{rest or ''}"


def split(text: str) -> tuple[str, str | None]:
    """Return the part of ``text`` that is indexed, and what follows it."""
    return text[:HEAD], text[HEAD:] or None


def exact_digits(value: int) -> str | None:
    """Return the digits of ``value`` if a double cannot hold it, else None."""
    return None if int(float(value)) == value else str(value)
