"""Where a registry lives when nobody says: the environment, then the user's data directory."""

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Locations", "cache_directory", "data_directory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Locations:
    """The two places of a registry.

    Attributes:
        database: The URL of its database.
        objects: The URL of its object store.
        embedded: Whether the database is the embedded default, which upgrades itself.
    """

    database: str
    objects: str
    embedded: bool

    @classmethod
    def find(cls, database: str | None = None, objects: str | None = None) -> "Locations":
        """Return the places named, else those of the environment, else the user's data directory.

        The environment's names are ``PROMPTREG_DATABASE_URL`` and ``PROMPTREG_OBJECTS_URL``.
        """
        database = database or os.environ.get("PROMPTREG_DATABASE_URL") or None
        objects = objects or os.environ.get("PROMPTREG_OBJECTS_URL") or None
        return cls(
            database=database or str(data_directory() / "promptreg.db"),
            objects=objects or str(data_directory() / "objects"),
            embedded=database is None,
        )


def data_directory() -> Path:
    """Return where the embedded default keeps its files; ``PROMPTREG_DATA_DIR`` moves it."""
    return _directory("PROMPTREG_DATA_DIR", "user_data_path")


def cache_directory() -> Path:
    """Return where copies lie that can be fetched again; ``PROMPTREG_CACHE_DIR`` moves it."""
    return _directory("PROMPTREG_CACHE_DIR", "user_cache_path")


def _directory(variable: str, function: str) -> Path:
    chosen = os.environ.get(variable)
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    path: Path = getattr(platformdirs, function)("promptreg")
    return path
