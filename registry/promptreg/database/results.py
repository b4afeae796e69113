"""Results without a prompt: recorded once, read newest first. Each function is part of one transaction."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.engine import Row

from promptreg.database import reading
from promptreg.database.tables import base_models, results, tasks
from promptreg.documents import render_document
from promptreg.fingerprints import Fingerprint
from promptreg.prompts import Scalar
from promptreg.results import Result, result_digest

__all__ = ["all_results", "record"]

_RESULTS = (
    select(
        results,
        tasks.c.name.label("task"),
        base_models.c.fingerprint,
        base_models.c.name.label("base_name"),
    )
    .join_from(results, tasks, tasks.c.id == results.c.task_id)
    .join(base_models, base_models.c.id == results.c.base_id)
)
_WITH_KEY = _RESULTS.where(results.c.idempotency_key == bindparam("key"))


def record(
    connection: Connection,
    *,
    task: str,
    base: Fingerprint,
    method: str,
    hyperparameters: Mapping[str, Scalar],
    metrics: Mapping[str, Scalar],
    by: str,
) -> Result:
    """Add a result, or return the one that is there already.

    Raises:
        BaseModelNotFoundError: The base model is not registered.
    """
    from sqlalchemy import insert

    from promptreg.database.deeds import Deed, lock_task
    from promptreg.database.orm import ResultRow

    model = reading.base_row(connection, str(base))
    task_id = lock_task(connection, task)
    key = {"key": str(result_digest(task, base, method, hyperparameters, metrics))}
    found = connection.execute(_WITH_KEY, key).one_or_none()
    if found is not None:
        return _to_result(found)
    deed = Deed.begin(connection, by)
    row = {
        "task_id": task_id,
        "base_id": model.id,
        "method": method,
        "hyperparameters": render_document(hyperparameters).decode(),
        "metrics": render_document(metrics).decode(),
        "recorded_by": by,
        "recorded_at": deed.at,
        "idempotency_key": key["key"],
    }
    connection.execute(insert(ResultRow).values(**row))
    deed.record("record-result", task, f"{method} on {model.name or model.fingerprint}")
    return _to_result(connection.execute(_WITH_KEY, key).one())


def all_results(connection: Connection, task: str | None) -> tuple[Result, ...]:
    """Return the results of ``task`` (``*`` and ``?`` are wildcards) or of all tasks, the newest first.

    Raises:
        TaskNotFoundError: There is no such task.
    """
    statement = _RESULTS.order_by(results.c.id.desc())
    if task is not None:
        statement = statement.where(reading.of_task(connection, results.c.task_id, task))
    return tuple(_to_result(row) for row in connection.execute(statement))


def _to_result(row: Row[Any]) -> Result:
    return Result(
        task=row.task,
        base=Fingerprint(row.fingerprint),
        base_name=row.base_name,
        method=row.method,
        hyperparameters=json.loads(row.hyperparameters),
        metrics=json.loads(row.metrics),
        recorded_by=row.recorded_by,
        recorded_at=row.recorded_at,
    )
