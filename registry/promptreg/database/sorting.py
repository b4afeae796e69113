"""Sorting: in which order versions come, and how a database finds the first of them quickly."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import and_, exists, select, true

from promptreg.database import tables
from promptreg.database.columns import COLUMNS, SCALARS, Kind, scalar_key
from promptreg.database.conditions import unknown_key
from promptreg.database.stretches import Stretch
from promptreg.database.tables import joined, prompts

__all__ = ["stretches"]


_HOLDS = {
    Kind.NUMBER: float,
    Kind.TEXT: str,
    Kind.DIGEST: str,
    Kind.MOMENT: datetime,
    Kind.TRUTH: datetime,
}


def stretches(sort: str | None, *, few: bool) -> Sequence[Stretch]:
    """Return the stretches that follow each other in the order of ``sort``; those that lack the key are last.

    Args:
        sort: A key, with or without ``-`` in front; None for the order of registration.
        few: Whether the query is about few versions, which are found without an order.

    Raises:
        InvalidFilterError: There is no such key.
    """
    if sort is None:
        return [Stretch.of_all()]
    key = sort.removeprefix("-")
    scalar = scalar_key(key)
    if scalar is not None:
        return _scalar_stretches(*scalar, few=few)
    column = COLUMNS.get(key)
    if column is None:
        raise unknown_key(sort, key, (*COLUMNS, *SCALARS))
    value, holds = column.expression, _HOLDS[column.kind]
    if not column.nullable:
        return [Stretch(joined(), true(), prompts.c.id, value, holds)]
    return [
        Stretch(joined(), value.is_not(None), prompts.c.id, value, holds),
        Stretch.of_all(value.is_(None)),
    ]


def _scalar_stretches(kind: str, name: str, *, few: bool) -> Sequence[Stretch]:
    """Numbers first, then texts, then the versions that lack it."""
    table = getattr(tables, kind).alias("sorted")
    named = table.c.name == name
    if kind == "metrics":
        named = and_(named, table.c.superseded_at.is_(None))
    has_it = exists().where(table.c.prompt_id == prompts.c.id, named).correlate(prompts)
    lacking = Stretch.of_all(~has_it)
    found = []
    for column, holds in ((table.c.number, float), (table.c.text, str)):
        only = table.c.number.is_(None) if holds is str else true()
        if few:
            # Few versions: look up the value of each, and sort them.
            of_it = table.c.prompt_id == prompts.c.id
            value = select(column).where(of_it, named, only).correlate(prompts).scalar_subquery()
            found.append(Stretch(joined(), value.is_not(None), prompts.c.id, value, holds))
        else:
            # Many: their index has the values in order, and a page takes only the first ones.
            source = joined(table.join(prompts, prompts.c.id == table.c.prompt_id))
            test = and_(named, column.is_not(None), only)
            found.append(Stretch(source, test, table.c.prompt_id, column, holds))
    return [*found, lacking]
