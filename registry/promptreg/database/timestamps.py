"""Moments in time, the same on every database: aware in Python, UTC in the table."""

from datetime import UTC, datetime

from sqlalchemy import DateTime, Dialect
from sqlalchemy.types import TypeDecorator

__all__ = ["Timestamp", "now"]


def now() -> datetime:
    """Return this moment, in UTC."""
    return datetime.now(UTC)


class Timestamp(TypeDecorator[datetime]):
    """An aware datetime.

    PostgreSQL keeps one as ``timestamptz``. SQLite has no such type: there the text of its UTC time is kept,
    always with microseconds, so that the texts sort as the moments do.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what the driver stores."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a timestamp needs a time zone: {value!r}")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what Python sees."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)
