"""Pages of versions: filtered, sorted, and continued from where the page before ended.

A page is found by the last value before it, never by counting rows, so it costs the same wherever it is and
nothing is shown twice when versions are pushed in between.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, literal, select, tuple_

from promptreg.database import reading
from promptreg.database.scalars import check_text
from promptreg.database.stretches import Stretch
from promptreg.database.tables import joined, prompts
from promptreg.database.timestamps import Timestamp
from promptreg.database.values import Page
from promptreg.errors import InvalidFilterError, InvalidValueError

__all__ = ["Query", "page"]

_LARGEST_PAGE = 1000
_LARGEST_ID = 2**31
# The parts that read filters and sort keys are imported when there is one: a plain list starts without them.
_FEW = 500
"""So many versions are looked up one by one faster than all are gone through."""

_AGAIN = "repeat the query whose page it was, with the same task, filter and order"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which versions, and in which order.

    Attributes:
        task: Only this task's; ``*`` and ``?`` are wildcards.
        where: A filter.
        sort: A key, with ``-`` in front for the largest first; None for the newest first.
        yanked: Whether yanked versions are shown though the filter does not ask about them.

    Raises:
        InvalidValueError: One of them holds what no text holds.
    """

    task: str | None = None
    where: str | None = None
    sort: str | None = None
    yanked: bool = False

    def __post_init__(self) -> None:
        for what, text in (("task", self.task), ("filter", self.where), ("sort key", self.sort)):
            check_text(f"the {what}", text or "")

    @property
    def mark(self) -> str:
        """What a cursor carries, so that it cannot be used with another query."""
        text = json.dumps([self.task, self.where, self.sort, self.yanked])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class _Cursor:
    """Where a page ended: in which stretch, at which value, at which version."""

    stretch: int
    value: Any
    id: int


def page(connection: Connection, query: Query, *, limit: int, after: str | None) -> Page:
    """Return the page of ``query`` that follows ``after``, with at most ``limit`` versions.

    Raises:
        InvalidFilterError: The filter, the sort key or ``after`` cannot be understood.
        InvalidValueError: ``limit`` is none.
        TaskNotFoundError: There is no such task.
    """
    if not 1 <= limit <= _LARGEST_PAGE:
        reason = f"a page has 1 to {_LARGEST_PAGE} versions"
        raise InvalidValueError("the limit", str(limit), reason, "ask for the next page")
    restriction = _restriction(connection, query)
    parts = _stretches(query, restriction)
    descending = query.sort is None or query.sort.startswith("-")
    start = None if after is None else _read_cursor(after, query, parts)
    found: list[_Cursor] = []
    for index in range(start.stretch if start else 0, len(parts)):
        statement = _select(parts[index], restriction, start, descending=descending)
        start = None
        rows = connection.execute(statement.limit(limit + 1 - len(found))).all()
        found += [_Cursor(index, row[1] if len(row) > 1 else None, row[0]) for row in rows]
        if len(found) > limit:
            break
    more = len(found) > limit
    return Page(
        versions=tuple(reading.load(connection, [each.id for each in found[:limit]])),
        next=_write_cursor(found[limit - 1], query) if more else None,
    )


@dataclass(frozen=True, slots=True)
class _Restriction:
    """Which versions a query is about.

    Attributes:
        tests: What is true of them.
        few: Whether the tests name the rows of a few of them, so that no order has to lead there.
    """

    tests: Sequence[ColumnElement[bool]]
    few: bool


def _restriction(connection: Connection, query: Query) -> _Restriction:
    dialect = connection.dialect.name
    tests: list[ColumnElement[bool]] = []
    candidates: list[Select[Any]] = []
    shown = query.yanked
    if query.task is not None:
        tests.append(reading.of_task(connection, prompts.c.task_id, query.task))
        if query.sort is not None:
            candidates.append(select(prompts.c.id).select_from(joined()).where(tests[0]))
    if query.where is not None and query.where.strip():
        from promptreg.database.conditions import Condition

        condition = Condition.parse(query.where, dialect)
        shown = shown or condition.asks_about("yanked")
        tests.append(condition.test())
        candidates += condition.candidates()
    few = _few(connection, candidates)
    if few is not None:
        tests.append(prompts.c.id.in_(few))
    if not shown:
        tests.append(prompts.c.yanked_at.is_(None))
    return _Restriction(tests, few is not None)


def _few(connection: Connection, candidates: Sequence[Select[Any]]) -> Sequence[int] | None:
    """Return what the first of ``candidates`` finds that finds few, None if there is none.

    A planner cannot know that they are few: it would go through all versions in the order asked for, and
    look at each.
    """
    for ids in candidates:
        found = connection.scalars(ids.limit(_FEW + 1)).all()
        if len(found) <= _FEW:
            return found
    return None


def _stretches(query: Query, restriction: _Restriction) -> Sequence[Stretch]:
    if query.sort is None:
        return [Stretch.of_all()]
    from promptreg.database.sorting import stretches

    return stretches(query.sort, few=restriction.few)


def _select(
    stretch: Stretch, restriction: _Restriction, start: _Cursor | None, *, descending: bool
) -> Select[Any]:
    keys = [stretch.id] if stretch.value is None else [stretch.value, stretch.id]
    statement = select(*reversed(keys)).select_from(stretch.source)
    statement = statement.where(stretch.test, *restriction.tests)
    if start is not None:
        last = [literal(start.id)]
        if stretch.value is not None:
            moment = Timestamp() if stretch.holds is datetime else None
            last.insert(0, literal(start.value, moment))
        here, there = tuple_(*keys), tuple_(*last)
        statement = statement.where(here < there if descending else here > there)
    return statement.order_by(*(key.desc() if descending else key.asc() for key in keys))


def _write_cursor(end: _Cursor, query: Query) -> str:
    value = end.value.isoformat() if isinstance(end.value, datetime) else end.value
    text = json.dumps([query.mark, end.stretch, value, end.id], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(after: str, query: Query, parts: Sequence[Stretch]) -> _Cursor:
    try:
        mark, cursor = _cursor_of(after, parts)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidFilterError(after, "it is no page's 'next'", None, _AGAIN) from error
    if mark != query.mark:
        raise InvalidFilterError(after, "that page belongs to another query", None, _AGAIN)
    return cursor


def _cursor_of(after: str, parts: Sequence[Stretch]) -> tuple[str, _Cursor]:
    """Read what ``_write_cursor`` wrote; raise a ValueError or TypeError at anything else."""
    text = base64.urlsafe_b64decode(after + "=" * (-len(after) % 4))
    mark, stretch, value, last = json.loads(text)
    if not _is_within(stretch, 0, len(parts)) or not _is_within(last, 1, _LARGEST_ID):
        raise ValueError(text)
    return mark, _Cursor(stretch, _value(value, parts[stretch]), last)


def _is_within(number: object, least: int, end: int) -> bool:
    # Not ``number in range(...)``: for what is no integer that looks at every number of the range.
    return isinstance(number, int) and least <= number < end


def _value(value: Any, stretch: Stretch) -> Any:
    if stretch.holds is None:
        return None
    if issubclass(stretch.holds, datetime):
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    check_text("the cursor", str(value))
    return stretch.holds(value)
