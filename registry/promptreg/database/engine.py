"""Engines: for each database one, with the settings that it needs."""

import os
from weakref import WeakSet

import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.engine import URL

from promptreg.database import sqlite

__all__ = ["WRITING", "create_engine"]

WRITING = sqlite.WRITING

_POSTGRESQL_OPTIONS = (
    "-c timezone=UTC"
    " -c default_transaction_isolation=read\\ committed"
    " -c lock_timeout=5s"
    " -c statement_timeout=30s"
    " -c idle_in_transaction_session_timeout=60s"
)
_POOL_SECONDS = 30
_engines: "WeakSet[Engine]" = WeakSet()


def create_engine(url: URL, *, migrating: bool = False) -> Engine:
    """Return an engine for ``url``, as ``urls.parse`` gives it. It connects when it is first used.

    Args:
        url: Where the database is.
        migrating: Whether it is for migrations: they rebuild tables on SQLite, which enforced foreign keys
            would forbid, so there the keys are checked at the end instead.
    """
    if url.get_backend_name() == "sqlite":
        engine = sqlite.create_engine(url, foreign_keys=not migrating)
    else:
        engine = _postgresql_engine(url)
    _engines.add(engine)
    return engine


def _postgresql_engine(url: URL) -> Engine:
    defaults = {"connect_timeout": "5", "application_name": "promptreg"}
    arguments = {name: value for name, value in defaults.items() if name not in url.query}
    given = url.query.get("options", ())
    # What the URL says comes last, and so wins.
    own = (given,) if isinstance(given, str) else given
    arguments["options"] = " ".join((_POSTGRESQL_OPTIONS, *own))
    return sqlalchemy.create_engine(
        url, connect_args=arguments, pool_pre_ping=True, pool_timeout=_POOL_SECONDS
    )


def _forget_connections() -> None:
    for engine in _engines:
        # The parent still uses them: drop them without a word to the server.
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_connections)
