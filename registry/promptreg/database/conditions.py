"""Filters in SQL: a tree from ``filters`` becomes a condition whose values are all bound parameters."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Select,
    TableClause,
    and_,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    union_all,
)

from promptreg.database import tables
from promptreg.database.columns import COLUMNS, SCALARS, Column, Kind, scalar_key
from promptreg.database.filters import Comparison, Every, Negation, Node, Some, Value, comparisons
from promptreg.database.filters import parse as parse_filter
from promptreg.database.scalars import HEAD, exact_digits, split
from promptreg.database.tables import aliases, prompts
from promptreg.errors import InvalidFilterError

__all__ = ["Condition", "glob", "unknown_key"]

_Test = ColumnElement[bool]
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_PREFIX = re.compile(r"(?:sha256|bfp1):[0-9a-f]{8,63}")
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[T ][0-9]{2}:[0-9]{2}(?P<second>:[0-9]{2}(?P<fraction>\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_EXACT = 2**53
"""Up to here every integer is a double."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A filter, for one kind of database.

    Attributes:
        expression: As a person wrote it.
        root: As a tree.
        dialect: ``sqlite`` or ``postgresql``.
    """

    expression: str
    root: Node
    dialect: str

    @classmethod
    def parse(cls, expression: str, dialect: str) -> "Condition":
        """Read ``expression``.

        Raises:
            InvalidFilterError: It cannot be understood.
        """
        return cls(expression, parse_filter(expression), dialect)

    def asks_about(self, key: str) -> bool:
        """Return whether ``key`` is compared with anything."""
        return any(comparison.key == key for comparison in comparisons(self.root))

    def test(self) -> _Test:
        """Return the condition on a row of ``tables.joined()``.

        Raises:
            InvalidFilterError: A key is unknown, or is compared with what it cannot be compared with.
        """
        return self._test(self.root)

    def candidates(self) -> Sequence[Select[Any]]:
        """Return queries that each find, by an index, the ids of all versions that can pass the test.

        There is none for a filter that asks only what versions lack.
        """
        return self._candidates(self.root)

    def _test(self, node: Node) -> _Test:
        match node:
            case Every():
                return and_(*(self._test(part) for part in node.parts))
            case Some():
                return or_(*(self._test(part) for part in node.parts))
            case Negation():
                return not_(self._test(node.part))
            case Comparison(operator="!="):
                return not_(self._comparison(node, "="))
            case _:
                return self._comparison(node, node.operator)

    def _candidates(self, node: Node) -> Sequence[Select[Any]]:
        match node:
            case Every():
                return [each for part in node.parts for each in self._candidates(part)]
            case Some():
                found = [self._candidates(part) for part in node.parts]
                if not all(found):
                    return []
                return [select(union_all(*(each[0] for each in found)).subquery().c[0])]
            case Comparison() if node.operator != "=" and scalar_key(node.key) is None:
                return []
            case Comparison(operator="!=") | Negation():
                return []
            case _:
                rows = self._rows(node, node.operator)
                return [] if rows is None else [rows]

    def _comparison(self, node: Comparison, comparator: str) -> _Test:
        rows = self._rows(node, comparator)
        if rows is not None:
            (owner,) = rows.selected_columns
            return exists(rows.where(owner == prompts.c.id).correlate(prompts))
        column = COLUMNS.get(node.key)
        if column is None:
            raise unknown_key(self.expression, node.key, (*COLUMNS, "alias", *SCALARS), node.at)
        test = self._column(node, column, comparator)
        if column.kind is Kind.TRUTH or not column.nullable:
            return test
        return and_(column.expression.is_not(None), test)

    def _rows(self, node: Comparison, comparator: str) -> Select[Any] | None:
        """Return the rows that make a comparison true, as the ids of their versions; None for a column."""
        if node.key == "alias":
            test = self._text(node, aliases.c.name, comparator)
            return select(aliases.c.prompt_id).where(test)
        scalar = scalar_key(node.key)
        if scalar is None:
            return None
        kind, name = scalar
        table: TableClause = getattr(tables, kind)
        rows = select(table.c.prompt_id).where(table.c.name == name)
        if table is tables.metrics:
            rows = rows.where(table.c.superseded_at.is_(None))
        return rows.where(self._scalar(node, table, comparator))

    def _scalar(self, node: Comparison, table: TableClause, comparator: str) -> _Test:
        value = node.value
        number = self._number_of(node)
        if number is not None:
            test: _Test = _OPERATORS[comparator](table.c.number, literal(float(number)))
            if comparator == "=" and abs(number) >= _EXACT:
                digits = exact_digits(number) if isinstance(number, int) else None
                same = table.c.text.is_(None) if digits is None else table.c.text == digits
                test = and_(test, table.c.number.is_not(None), same)
            return test
        if comparator == "=" and not value.wildcards:
            return self._exact(table, value.text)
        text = table.c.text.concat(func.coalesce(table.c.rest, ""))
        return and_(table.c.number.is_(None), self._text(node, text, comparator))

    def _exact(self, table: TableClause, text: str) -> _Test:
        head, rest = split(text)
        same: _Test = table.c.text == head
        # What the index cannot know is asked only where it matters: of long texts, and of long integers.
        if len(head) == HEAD:
            same = and_(same, table.c.rest.is_(None) if rest is None else table.c.rest == rest)
        if _INTEGER.fullmatch(text):
            same = and_(same, table.c.number.is_(None))
        return same

    def _column(self, node: Comparison, column: Column, comparator: str) -> _Test:
        match column.kind:
            case Kind.NUMBER:
                number = self._number_of(node)
                if number is None:
                    raise self._wrong(node, f"{node.key} is a number")
                test: _Test = _OPERATORS[comparator](column.expression, literal(float(number)))
                return test
            case Kind.TRUTH:
                return self._truth(node, column, comparator)
            case Kind.MOMENT:
                return self._moment(node, column, comparator)
            case Kind.DIGEST:
                return self._digest(node, column, comparator)
            case Kind.TEXT:
                return self._text(node, column.expression, comparator)

    def _text(self, node: Comparison, text: ColumnElement[Any], comparator: str) -> _Test:
        value = node.value
        if value.wildcards:
            if comparator != "=":
                raise self._wrong(node, "a pattern is compared with = or != only")
            return glob(text, value, self.dialect)
        if comparator != "=" and self._number_of(node) is not None:
            raise self._wrong(
                node, f"{node.key} is a text, which is neither less nor greater than a number"
            )
        test: _Test = _OPERATORS[comparator](text, literal(value.text))
        return test

    def _digest(self, node: Comparison, column: Column, comparator: str) -> _Test:
        if comparator == "=" and _PREFIX.fullmatch(node.value.text):
            start = node.value.text
            # Hex digits come before 'g', so this range is all that begins so.
            text = column.expression if column.other is None else column.other
            return and_(text >= literal(start), text < literal(start + "g"))
        test = self._text(node, column.expression, comparator)
        if column.other is None or comparator != "=":
            return test
        return or_(test, self._text(node, column.other, comparator))

    def _truth(self, node: Comparison, column: Column, comparator: str) -> _Test:
        word = node.value.text.lower()
        if comparator != "=" or word not in {"true", "false"}:
            raise self._wrong(node, f"{node.key} is = true or = false")
        known = column.expression.is_not(None)
        return known if word == "true" else not_(known)

    def _moment(self, node: Comparison, column: Column, comparator: str) -> _Test:
        """Compare with the whole day, minute or second that the value names."""
        moment = column.expression
        try:
            start, end = _span(node.value.text)
        except (ValueError, OverflowError) as error:
            reason = f"{node.key} is a time: write 2026-01-31 or 2026-01-31T09:30"
            raise self._wrong(node, reason) from error
        match comparator:
            case "=":
                return and_(moment >= start, moment < end)
            case "<":
                return moment < start
            case "<=":
                return moment < end
            case ">":
                return moment >= end
            case _:
                return moment >= start

    def _number_of(self, node: Comparison) -> int | float | None:
        value = node.value
        if value.quoted or not _NUMBER.fullmatch(value.text):
            return None
        number = int(value.text) if _INTEGER.fullmatch(value.text) else float(value.text)
        try:
            if isfinite(float(number)):
                return number
        except OverflowError:
            pass
        raise self._wrong(node, "this number is too large")

    def _wrong(self, node: Comparison, reason: str) -> InvalidFilterError:
        return InvalidFilterError(self.expression, reason, node.value_at)


def glob(text: ColumnElement[Any], value: Value, dialect: str) -> _Test:
    """Return whether ``text`` matches ``value``, whose wildcards are ``*`` and ``?``; case matters."""
    sqlite = dialect == "sqlite"
    pattern = "".join(
        _wildcard(character, sqlite) if index in value.wildcards else _literally(character, sqlite)
        for index, character in enumerate(value.text)
    )
    if sqlite:
        return text.op("GLOB", is_comparison=True, return_type=Boolean())(literal(pattern))
    return text.like(literal(pattern), escape="\\")


def unknown_key(
    expression: str, key: str, known: Sequence[str], at: int | None = None
) -> InvalidFilterError:
    """Return the error for a word that stands for nothing."""
    import difflib

    near = difflib.get_close_matches(key, known, n=1)
    nearest = f", did you mean {near[0]!r}?" if near else ":"
    reason = f"there is no key {key!r}{nearest} there are {', '.join(known)}"
    return InvalidFilterError(expression, reason, at)


def _wildcard(character: str, sqlite: bool) -> str:
    return character if sqlite else "%" if character == "*" else "_"


def _literally(character: str, sqlite: bool) -> str:
    if sqlite:
        return f"[{character}]" if character in "*?[" else character
    return f"\\{character}" if character in "%_\\" else character


def _span(text: str) -> tuple[datetime, datetime]:
    """Return where the day, minute, second or microsecond that ``text`` names begins, and where it ends."""
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError(text)
    start = datetime.fromisoformat(text)
    start = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
    if len(text) == len("2026-01-31"):
        return start, start + timedelta(days=1)
    if match["second"] is None:
        return start, start + timedelta(minutes=1)
    if match["fraction"] is None:
        return start, start + timedelta(seconds=1)
    return start, start + timedelta(microseconds=1)
