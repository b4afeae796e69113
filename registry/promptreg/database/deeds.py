"""Deeds: what every change to the database has in common.

Everything that changes a task's versions or aliases first locks the task's row, so within a task one thing
happens after the other; on SQLite the transaction has locked the whole database already.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from sqlalchemy import Connection, Executable, bindparam, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from promptreg.database.orm import EventRow, ManifestRow, ObjectRow, TaskRow
from promptreg.database.timestamps import now
from promptreg.digests import Digest

__all__ = ["Deed", "keep_manifest", "lock_task", "use_objects"]

_LOCKED_TASK = select(TaskRow.id).where(TaskRow.name == bindparam("task")).with_for_update()
_INSERT_EVENT = insert(EventRow)
_MAKE_TASK = {
    "sqlite": sqlite.insert(TaskRow).on_conflict_do_nothing(index_elements=["name"]),
    "postgresql": postgresql.insert(TaskRow).on_conflict_do_nothing(index_elements=["name"]),
}

_KEEP_MANIFEST = {
    "sqlite": sqlite.insert(ManifestRow).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(ManifestRow).on_conflict_do_nothing(),
}


def _use_object(statement: sqlite.Insert | postgresql.Insert) -> Executable:
    return statement.on_conflict_do_update(
        index_elements=["digest"],
        set_={"state": "live", "size": statement.excluded.size},
        where=or_(ObjectRow.state != "live", ObjectRow.size.is_(None)),
    )


_USE_OBJECT = {
    "sqlite": _use_object(sqlite.insert(ObjectRow)),
    "postgresql": _use_object(postgresql.insert(ObjectRow)),
}


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that ``by`` does ``at`` a moment, within the transaction of ``connection``."""

    connection: Connection
    by: str
    at: datetime

    @classmethod
    def begin(cls, connection: Connection, by: str) -> Self:
        """Return what ``by`` does now."""
        return cls(connection, by, now())

    def record(self, action: str, subject: str, detail: str | None = None) -> None:
        """Add the event."""
        row = {"at": self.at, "by": self.by, "action": action, "subject": subject, "detail": detail}
        self.connection.execute(_INSERT_EVENT, row)


def lock_task(connection: Connection, task: str) -> int:
    """Return the id of ``task``, made at need, whose row nobody else changes until the transaction ends."""
    found = connection.scalar(_LOCKED_TASK, {"task": task})
    if found is not None:
        return found
    connection.execute(_MAKE_TASK[connection.dialect.name], {"name": task, "next_version": 1})
    return connection.execute(_LOCKED_TASK, {"task": task}).scalar_one()


def keep_manifest(connection: Connection, manifest: bytes) -> Digest:
    """Keep ``manifest``, and return its digest."""
    digest = Digest.of(manifest)
    row = {"digest": str(digest), "document": manifest.decode()}
    connection.execute(_KEEP_MANIFEST[connection.dialect.name], row)
    return digest


def use_objects(connection: Connection, sizes: Mapping[Digest, int | None]) -> None:
    """Say that these objects are in use; one that was about to be removed stays."""
    # In one order, or two pushes of the same objects could wait for each other.
    rows = [
        {"digest": str(digest), "size": size, "state": "live"}
        for digest, size in sorted(sizes.items(), key=lambda item: item[0])
    ]
    connection.execute(_USE_OBJECT[connection.dialect.name], rows)
