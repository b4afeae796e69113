"""Metrics: recorded with who and when, never overwritten. Each function is part of one transaction."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, insert, select, update

from promptreg.database import reading, references
from promptreg.database.changes import standing
from promptreg.database.deeds import Deed, lock_task
from promptreg.database.orm import MetricRow
from promptreg.database.scalars import StoredScalar, to_row
from promptreg.prompts import PromptVersion, Scalar

__all__ = ["add_metrics", "insert_metrics", "measure"]

# Made once, because to make a statement takes longer than to run it.
_INSERT_METRIC = insert(MetricRow)


def measure(
    connection: Connection,
    measured: Sequence[tuple[PromptVersion, Mapping[str, Scalar]]],
    by: str,
) -> list[PromptVersion]:
    """Record metrics of versions, and return these with their newest.

    Raises:
        PromptNotFoundError: A version is not registered here.
    """
    # In one order, or two that measure the same tasks could wait for each other.
    for task in sorted({version.task for version, _ in measured}):
        lock_task(connection, task)
    ids = [references.row_id(connection, version) for version, _ in measured]
    deed = Deed.begin(connection, by)
    for prompt_id, (_, metrics) in zip(ids, measured, strict=True):
        add_metrics(deed, prompt_id, metrics)
    return reading.load(connection, ids)


def insert_metrics(deed: Deed, prompt_id: int, metrics: Mapping[str, Scalar]) -> None:
    """Record the first metrics of a version."""
    recorded = {"prompt_id": prompt_id, "recorded_by": deed.by, "recorded_at": deed.at}
    rows = [
        {**recorded, "name": name, **to_row(value).columns()} for name, value in metrics.items()
    ]
    if rows:
        deed.connection.execute(_INSERT_METRIC, rows)


def add_metrics(deed: Deed, prompt_id: int, metrics: Mapping[str, Scalar]) -> None:
    """Record those of ``metrics`` that are new or have another value now; what they were before is kept."""
    newest = (MetricRow.prompt_id == prompt_id, MetricRow.superseded_at.is_(None))
    columns = (MetricRow.name, MetricRow.kind, MetricRow.number, MetricRow.text, MetricRow.rest)
    rows = deed.connection.execute(select(*columns).where(*newest))
    known = {row.name: StoredScalar(row.kind, row.number, row.text, row.rest) for row in rows}
    fresh = {name: value for name, value in metrics.items() if known.get(name) != to_row(value)}
    if not fresh:
        return
    superseded = update(MetricRow).where(*newest, MetricRow.name.in_(list(fresh)))
    deed.connection.execute(superseded.values(superseded_at=deed.at))
    insert_metrics(deed, prompt_id, fresh)
    detail = ", ".join(f"{name}={value}" for name, value in fresh.items())
    deed.record("measure", standing(deed, prompt_id).ref, detail)
