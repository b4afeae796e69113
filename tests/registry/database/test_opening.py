"""Opening a database: what is found there, and what cannot be used."""

import re
import shutil
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from engines_sql import PostgresqlServer
from promptreg.database import Database, schema, upgrade, urls
from promptreg.database.engine import WRITING, create_engine
from promptreg.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    MissingDependencyError,
    SchemaError,
    StoreFullError,
)
from version_examples import add_bases, push


def _run(url: str, statement: str) -> None:
    engine = create_engine(urls.parse(url))
    with engine.execution_options(**{WRITING: True}).begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_a_database_without_a_schema_names_the_command_that_mends_it(empty_url: str) -> None:
    with pytest.raises(SchemaError, match=r"has no schema yet.*run 'promptreg upgrade'"):
        Database.open(empty_url)


def test_a_sqlite_file_that_is_not_there_is_not_made(sqlite_url: str) -> None:
    with pytest.raises(SchemaError):
        Database.open(sqlite_url)
    assert not Path(sqlite_url.removeprefix("sqlite:///")).exists()


def test_a_database_is_made_when_it_is_opened_for_upgrading(empty_url: str) -> None:
    database = Database.open(empty_url, upgrade=True)
    add_bases(database)
    database.close()
    again = Database.open(empty_url)
    assert len(again.bases()) == 2
    again.close()


def test_an_upgrade_says_where_it_came_from(empty_url: str) -> None:
    assert upgrade(empty_url) == (None, schema.HEAD)
    assert upgrade(empty_url) == (schema.HEAD, schema.HEAD)


def test_a_newer_schema_is_left_alone(upgraded_url: str) -> None:
    _run(upgraded_url, "UPDATE alembic_version SET version_num = '9999'")
    for use in (
        Database.open,
        lambda url: Database.open(url, upgrade=True),
        upgrade,
    ):
        with pytest.raises(
            SchemaError, match=r"has schema 9999.*upgrade promptreg itself"
        ) as caught:
            use(upgraded_url)
        assert caught.value.newer


def test_a_new_file_and_its_new_folder_are_for_their_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "data" / "registry.db"
    Database.open(str(file), upgrade=True).close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "a?b#c.db", "ü&=.db", "%20.db"])
def test_a_path_may_hold_any_character(tmp_path: Path, name: str) -> None:
    database = Database.open(str(tmp_path / name), upgrade=True)
    add_bases(database)
    database.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no database " * 100)
    for upgrading in (False, True):
        with pytest.raises(DatabaseUnavailableError, match="its file is no SQLite database"):
            Database.open(str(file), upgrade=upgrading)
    assert file.read_text() == "no database " * 100


def test_a_damaged_file_is_an_error(
    upgraded_sqlite_url: str, open_database: Callable[[str], Database]
) -> None:
    file = Path(upgraded_sqlite_url.removeprefix("sqlite:///"))
    whole = file.read_bytes()
    file.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    with pytest.raises(DatabaseUnavailableError, match="its file is damaged"):
        add_bases(open_database(upgraded_sqlite_url))


@pytest.mark.parametrize("upgrading", [False, True])
def test_a_folder_is_no_database(tmp_path: Path, upgrading: bool) -> None:
    with pytest.raises(DatabaseUnavailableError, match="its file cannot be"):
        Database.open(str(tmp_path), upgrade=upgrading)


def test_a_database_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseUnavailableError, match="its file cannot be made"):
        Database.open(str(tmp_path / "file" / "registry.db"), upgrade=True)


def test_a_server_that_is_not_there_is_an_error_without_the_password() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        url = f"postgresql://ada:secret@127.0.0.1:{port}/prompts"
        for use in (Database.open, upgrade):
            with pytest.raises(DatabaseUnavailableError) as caught:
                use(url)
            assert f"postgresql://ada:***@127.0.0.1:{port}/prompts cannot be used" in str(
                caught.value
            )
            assert "secret" not in str(caught.value)
            assert "\n" not in str(caught.value)


def test_a_database_that_the_server_lacks_is_an_error(postgresql_server: PostgresqlServer) -> None:
    with pytest.raises(DatabaseUnavailableError, match='database "nowhere" does not exist'):
        Database.open(postgresql_server.url("nowhere"))


def test_postgresql_needs_a_package_that_an_extra_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingDependencyError, match=re.escape("pip install '.[postgresql]'")):
        Database.open("postgresql://db/prompts")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://db/prompts", "promptreg does not use 'mysql'"),
        ("postgresql+asyncpg://db/prompts", "promptreg does not use"),
        ("https://db/prompts", "promptreg does not use 'https'"),
        ("://", "it is no URL"),
        ("postgresql://ada:secret@db:port/prompts", "it is no URL"),
        ("mysql://ada:secret@db/prompts", "promptreg does not use"),
        ("sqlite://", "a database in memory would be gone"),
        ("sqlite:///:memory:", "a database in memory would be gone"),
        ("sqlite:///x.db?cache=shared", "of SQLite's options only mode=ro"),
        ("sqlite:///x.db?mode=memory", "of SQLite's options only mode=ro"),
    ],
)
def test_a_url_that_cannot_be_understood_says_why(url: str, reason: str) -> None:
    for use in (Database.open, upgrade):
        with pytest.raises(ConfigurationError) as caught:
            use(url)
        assert caught.value.reason.startswith(reason)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("registry.db", "sqlite:///registry.db"),
        ("/var/lib/registry.db", "sqlite:////var/lib/registry.db"),
        ("sqlite:///registry.db", "sqlite:///registry.db"),
        ("postgres://db/p", "postgresql://db/p"),
        ("postgresql+psycopg://ada:pw@db:5433/p", "postgresql://ada:***@db:5433/p"),
        ("postgresql://db/p?password=pw&sslmode=require", "postgresql://db/p?sslmode=require"),
    ],
)
def test_a_url_is_shown_as_a_person_writes_it_without_the_password(url: str, shown: str) -> None:
    assert urls.display(urls.parse(url)) == shown


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert urls.file_of(urls.parse("~/registry.db")) == tmp_path / "registry.db"


def test_a_full_disk_is_an_error_and_changes_nothing(
    upgraded_sqlite_url: str, open_database: Callable[[str], Database]
) -> None:
    database = open_database(upgraded_sqlite_url)
    add_bases(database)
    push(database, "a")

    def fill(connection: Any, _record: object) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    engine = database._transactions._engine
    engine.dispose()
    event.listen(engine, "connect", fill)
    with pytest.raises(StoreFullError, match=r"disk of the database sqlite:.*is full"):
        push(database, "b", note="long " * 20_000)
    assert [version.ref for version in database.page().versions] == ["sst2@1"]
    assert len(database.events()) == 3


def test_a_sqlite_file_can_be_opened_for_reading_only(
    upgraded_sqlite_url: str, open_database: Callable[[str], Database]
) -> None:
    add_bases(open_database(upgraded_sqlite_url))
    reading = open_database(f"{upgraded_sqlite_url}?mode=ro")
    assert len(reading.bases()) == 2
    with pytest.raises(DatabaseUnavailableError, match="it is read-only"):
        push(reading)


def test_a_read_only_server_is_an_error(
    upgraded_postgresql_url: str, open_database: Callable[[str], Database]
) -> None:
    add_bases(open_database(upgraded_postgresql_url))
    options = "options=-c%20default_transaction_read_only%3Don"
    reading = open_database(f"{upgraded_postgresql_url}&{options}")
    assert len(reading.bases()) == 2
    with pytest.raises(DatabaseUnavailableError, match="it is read-only"):
        push(reading)


def test_a_connection_that_the_server_dropped_is_replaced(
    upgraded_postgresql_url: str,
    postgresql_server: PostgresqlServer,
    open_database: Callable[[str], Database],
) -> None:
    database = open_database(upgraded_postgresql_url)
    dropped = postgresql_server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'promptreg'"
    )
    assert dropped
    add_bases(database)
    assert len(database.bases()) == 2


def test_a_file_that_is_removed_while_open_is_not_made_again(
    upgraded_sqlite_url: str, open_database: Callable[[str], Database]
) -> None:
    database = open_database(upgraded_sqlite_url)
    shutil.rmtree(Path(upgraded_sqlite_url.removeprefix("sqlite:///")).parent)
    database._transactions._engine.dispose()
    with pytest.raises(DatabaseUnavailableError, match="its file cannot be opened"):
        database.bases()
    Path(upgraded_sqlite_url.removeprefix("sqlite:///")).parent.mkdir()
