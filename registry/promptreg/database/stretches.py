"""Stretches: the versions that have the value that they are sorted by, and those that lack it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, FromClause, true

from promptreg.database.tables import joined, prompts

__all__ = ["Stretch"]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Versions that are sorted by the same thing; an order is one stretch, or several after each other.

    Attributes:
        source: Where they come from.
        test: What is true of them.
        id: The id of a version's row, which decides between equal values.
        value: What they are sorted by, if not by their ids alone.
        holds: What that is in Python.
    """

    source: FromClause
    test: ColumnElement[bool]
    id: ColumnElement[int]
    value: ColumnElement[Any] | None = None
    holds: type[float] | type[str] | type[datetime] | None = None

    @classmethod
    def of_all(cls, test: ColumnElement[bool] | None = None) -> "Stretch":
        """Return the versions that pass ``test``, or all, in the order in which they were registered."""
        return cls(joined(), true() if test is None else test, prompts.c.id)
