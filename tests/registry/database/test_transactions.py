"""The settings of each database's connections, and what is tried again."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, Engine, event, inspect, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from engines_sql import PostgresqlServer
from promptreg.database import Database, sqlite, urls
from promptreg.database.engine import create_engine
from promptreg.database.transactions import Transactions
from promptreg.errors import DatabaseUnavailableError
from version_examples import add_bases, push


@pytest.fixture
def engine(upgraded_url: str) -> Iterator[Engine]:
    engine = create_engine(urls.parse(upgraded_url))
    yield engine
    engine.dispose()


@pytest.fixture
def transactions(engine: Engine) -> Transactions:
    return Transactions(engine, "the test's")


@pytest.fixture
def postgresql(upgraded_postgresql_url: str) -> Iterator[Transactions]:
    transactions = Transactions(create_engine(urls.parse(upgraded_postgresql_url)), "the test's")
    yield transactions
    transactions.close()


def _fail(code: str) -> str:
    """Return a statement that fails on PostgreSQL with ``code``."""
    return f"DO $$ BEGIN RAISE EXCEPTION 'made up' USING ERRCODE = '{code}'; END $$"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((3, 37, 2), ("delete", "EXTRA")),
        ((3, 40, 1), ("delete", "EXTRA")),
        ((3, 44, 5), ("delete", "EXTRA")),
        ((3, 44, 6), ("wal", "FULL")),
        ((3, 45, 0), ("delete", "EXTRA")),
        ((3, 50, 6), ("delete", "EXTRA")),
        ((3, 50, 7), ("wal", "FULL")),
        ((3, 51, 2), ("delete", "EXTRA")),
        ((3, 51, 3), ("wal", "FULL")),
        ((3, 53, 4), ("wal", "FULL")),
        ((4, 0, 0), ("wal", "FULL")),
    ],
)
def test_only_a_library_that_logs_safely_keeps_a_log(
    version: tuple[int, int, int], expected: tuple[str, str]
) -> None:
    assert sqlite.journal_for(version) == expected


def test_a_sqlite_connection_has_its_settings(upgraded_sqlite_url: str) -> None:
    journal, synchronous = sqlite.journal_for(sqlite.driver().sqlite_version_info)
    engine = create_engine(urls.parse(upgraded_sqlite_url))
    with engine.connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in (
                "foreign_keys",
                "busy_timeout",
                "trusted_schema",
                "journal_mode",
                "synchronous",
            )
        }
    engine.dispose()
    assert settings == {
        "foreign_keys": 1,
        "busy_timeout": 30_000,
        "trusted_schema": 0,
        "journal_mode": journal,
        "synchronous": {"FULL": 2, "EXTRA": 3}[synchronous],
    }


def test_a_postgresql_connection_has_its_settings(postgresql: Transactions) -> None:
    def settings(connection: Connection) -> dict[str, object]:
        names = (
            "transaction_isolation",
            "lock_timeout",
            "statement_timeout",
            "idle_in_transaction_session_timeout",
            "TimeZone",
        )
        return {name: connection.execute(text(f"SHOW {name}")).scalar() for name in names}

    assert postgresql.read(settings) == {
        "transaction_isolation": "read committed",
        "lock_timeout": "5s",
        "statement_timeout": "30s",
        "idle_in_transaction_session_timeout": "1min",
        "TimeZone": "UTC",
    }


def test_a_writer_on_sqlite_says_so_at_the_start(upgraded_sqlite_url: str) -> None:
    engine = create_engine(urls.parse(upgraded_sqlite_url))
    begun: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: begun.append(arguments[2]))
    transactions = Transactions(engine, "the test's")
    transactions.read(lambda connection: connection.execute(text("SELECT 1")))
    transactions.write(lambda connection: connection.execute(text("SELECT 1")))
    transactions.close()
    assert begun == ["BEGIN", "SELECT 1", "BEGIN IMMEDIATE", "SELECT 1"]


def test_a_transaction_that_fails_leaves_no_table(
    engine: Engine, transactions: Transactions
) -> None:
    def fail(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE half (id INTEGER)"))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        transactions.write(fail)
    assert not inspect(engine).has_table("half")


@pytest.mark.parametrize("code", ["40001", "40P01", "55P03"])
@pytest.mark.parametrize("failures", [1, 5])
def test_who_collided_tries_again(postgresql: Transactions, code: str, failures: int) -> None:
    tries: list[int] = []

    def work(connection: Connection) -> str:
        tries.append(1)
        if len(tries) <= failures:
            connection.execute(text(_fail(code)))
        return "done"

    assert postgresql.write(work) == "done"
    assert len(tries) == failures + 1


def test_who_collides_six_times_gives_up(postgresql: Transactions) -> None:
    tries: list[int] = []

    def work(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text(_fail("40P01")))

    with pytest.raises(DatabaseUnavailableError, match=r"another process .*run the command again"):
        postgresql.write(work)
    assert len(tries) == 6


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("25006", "it is read-only"),
        ("28P01", "it refuses the user or the password"),
        ("42501", "its user lacks the rights"),
        ("53300", "the server has no room for another connection"),
        ("57014", "a statement took longer than it may"),
        ("57P01", "the server is stopping or starting"),
        ("08006", "the connection was lost"),
    ],
)
def test_what_the_server_says_is_translated(
    postgresql: Transactions, code: str, reason: str
) -> None:
    with pytest.raises(DatabaseUnavailableError) as caught:
        postgresql.read(lambda connection: connection.execute(text(_fail(code))))
    assert caught.value.reason.startswith(reason)
    assert "made up" in caught.value.reason


def test_a_mistake_of_our_own_stays_what_it_is(transactions: Transactions) -> None:
    with pytest.raises(IntegrityError):
        transactions.write(
            lambda connection: connection.execute(
                text("INSERT INTO tasks (name, next_version) VALUES ('x', 0)")
            )
        )


def test_a_statement_that_cannot_be_understood_stays_a_mistake(postgresql: Transactions) -> None:
    with pytest.raises(ProgrammingError):
        postgresql.read(lambda connection: connection.execute(text("SELECT FROM WHERE")))


def test_who_waits_too_long_for_a_lock_hears_that_another_writes(
    upgraded_postgresql_url: str, open_database: Callable[[str], Database]
) -> None:
    database = open_database(upgraded_postgresql_url)
    add_bases(database)
    push(database)
    impatient = open_database(f"{upgraded_postgresql_url}&options=-c%20lock_timeout%3D20ms")
    engine = create_engine(urls.parse(upgraded_postgresql_url))
    with engine.begin() as other:
        other.execute(text("SELECT id FROM tasks FOR UPDATE"))
        with pytest.raises(DatabaseUnavailableError, match="another process has been writing"):
            push(impatient, "b")
    assert push(impatient, "b").version == 2
    engine.dispose()


def test_sqlite_waits_for_another_writer_and_then_says_so(
    upgraded_sqlite_url: str,
    open_database: Callable[[str], Database],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.05)
    database = open_database(upgraded_sqlite_url)
    engine = create_engine(urls.parse(upgraded_sqlite_url))
    with engine.execution_options(**{sqlite.WRITING: True}).begin():  # noqa: SIM117
        with pytest.raises(DatabaseUnavailableError, match="another process has been writing"):
            add_bases(database)
    add_bases(database)
    engine.dispose()


def test_too_many_connections_are_an_error(
    upgraded_postgresql_url: str, postgresql_server: PostgresqlServer
) -> None:
    name = upgraded_postgresql_url.split("/")[3].split("?", maxsplit=1)[0]
    postgresql_server.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
    postgresql_server.execute("CREATE ROLE ada LOGIN")
    try:
        url = upgraded_postgresql_url.replace("postgres@", "ada@")
        with pytest.raises(DatabaseUnavailableError, match="too many connections"):
            Database.open(url)
    finally:
        postgresql_server.execute("DROP ROLE ada")
