"""The database: SQLite for one user, PostgreSQL for a team. Rows stay in here; values come out."""

from promptreg.database.database import Database
from promptreg.database.schema import upgrade
from promptreg.database.values import Event, Measurement, NewVersion, Page

__all__ = ["Database", "Event", "Measurement", "NewVersion", "Page", "upgrade"]
