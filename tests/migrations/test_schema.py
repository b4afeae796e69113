"""The migrations: they make the tables of the ORM, whole or not at all, and can be undone and done again."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import IntegrityError

from promptreg.database import Database, schema, upgrade, urls
from promptreg.database.engine import WRITING, create_engine
from promptreg.database.orm import Base
from promptreg.errors import DatabaseUnavailableError
from promptreg.prompts import Method
from version_examples import GEMMA, add_bases, push, resolve

ROOT = Path(__file__).parents[2]
TABLES = {*Base.metadata.tables, "alembic_version"}


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    """An engine for migrations on a database that has all of them."""
    upgrade(empty_url)
    engine = create_engine(urls.parse(empty_url), migrating=True)
    yield engine.execution_options(**{WRITING: True})
    engine.dispose()


def test_the_head_that_opening_asks_for_is_the_newest_revision() -> None:
    script = ScriptDirectory.from_config(schema.configuration())
    assert [each.revision for each in script.walk_revisions()] == list(reversed(schema.REVISIONS))
    assert script.get_current_head() == schema.HEAD


def test_the_migrations_make_the_tables_of_the_orm(engine: Engine) -> None:
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
    assert set(inspect(engine).get_table_names()) == TABLES


def test_the_comments_of_the_columns_are_in_the_database(upgraded_postgresql_url: str) -> None:
    engine = create_engine(urls.parse(upgraded_postgresql_url))
    for table in Base.metadata.tables.values():
        found = {each["name"]: each["comment"] for each in inspect(engine).get_columns(table.name)}
        assert found == {column.name: column.comment for column in table.columns}
    engine.dispose()


def test_each_migration_can_be_undone_and_done_again(engine: Engine, empty_url: str) -> None:
    with engine.begin() as connection:
        command.downgrade(schema.configuration(connection), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    assert upgrade(empty_url) == (None, schema.HEAD)
    assert set(inspect(engine).get_table_names()) == TABLES
    Database.open(empty_url).close()


@pytest.fixture
def before_ensembles(engine: Engine, empty_url: str) -> str:
    """A registry of revision 0001 with two versions, of which one is the other's parent."""
    database = Database.open(empty_url)
    add_bases(database)
    push(database, "a", hyperparameters={"lr": 0.3}, aliases=("prod",))
    push(database, "b", parent="sst2@1", metrics={"accuracy": 0.9})
    database.close()
    with engine.begin() as connection:
        command.downgrade(schema.configuration(connection), "0001")
    return empty_url


def test_a_registry_from_before_ensembles_keeps_its_versions_and_takes_ensembles(
    engine: Engine, before_ensembles: str
) -> None:
    with engine.connect() as connection:
        before = _constraints_and_rows(connection)
    statement = text("UPDATE prompts SET method = 'ensemble' WHERE version = 2")
    with pytest.raises(IntegrityError, match="ck_prompts_method_known"), engine.begin() as writing:
        writing.execute(statement)
    assert upgrade(before_ensembles) == ("0001", schema.HEAD)
    with engine.connect() as connection:
        assert _constraints_and_rows(connection) == before
    database = Database.open(before_ensembles)
    child, parent = resolve(database, "sst2@2"), resolve(database, "sst2@prod")
    assert (child.parent, child.metrics) == ("sst2@1", {"accuracy": 0.9})
    assert (parent.ref, parent.hyperparameters) == ("sst2@1", {"lr": 0.3})
    ensemble = push(database, "c", method=Method.ENSEMBLE)
    assert (ensemble.ref, ensemble.method) == ("sst2@3", Method.ENSEMBLE)
    database.close()


def test_ensembles_are_not_lost_to_a_downgrade(engine: Engine, before_ensembles: str) -> None:
    upgrade(before_ensembles)
    database = Database.open(before_ensembles)
    push(database, "c", method=Method.ENSEMBLE)
    database.close()
    with pytest.raises(IntegrityError, match="ck_prompts_method_known"), engine.begin() as writing:
        command.downgrade(schema.configuration(writing), "0001")
    with engine.connect() as connection:
        assert schema.current_revision(connection) == schema.HEAD
    database = Database.open(before_ensembles)
    assert resolve(database, "sst2@3").method is Method.ENSEMBLE
    database.close()


def test_a_registry_from_before_results_takes_results(
    engine: Engine, empty_url: str, before_ensembles: str
) -> None:
    with engine.begin() as connection:
        command.upgrade(schema.configuration(connection), "0002")
    assert not inspect(engine).has_table("results")
    assert upgrade(before_ensembles) == ("0002", schema.HEAD)
    database = Database.open(empty_url)
    assert resolve(database, "sst2@2").parent == "sst2@1"
    record_result(database)
    assert [each.method for each in database.results("sst2")] == ["model-tuning"]
    database.close()


def test_results_are_not_lost_to_a_downgrade(engine: Engine, before_ensembles: str) -> None:
    upgrade(before_ensembles)
    database = Database.open(before_ensembles)
    record_result(database)
    with pytest.raises(CommandError, match="1 results are registered"), engine.begin() as writing:
        command.downgrade(schema.configuration(writing), "0002")
    assert len(database.results()) == 1
    database.close()


def record_result(database: Database) -> None:
    database.record_result(
        task="sst2",
        base=GEMMA.fingerprint,
        method="model-tuning",
        hyperparameters={"seed": 0},
        metrics={"test_accuracy": 0.9},
        by="ada",
    )


@pytest.mark.parametrize("method", Method)
def test_every_method_can_be_registered(
    method: Method, upgraded_url: str, open_database: Callable[[str], Database]
) -> None:
    database = open_database(upgraded_url)
    add_bases(database)
    assert push(database, method=method).method is method


def _constraints_and_rows(connection: Connection) -> tuple[object, ...]:
    """Return all of ``prompts`` that the migration to ensembles must leave as it was."""
    look = inspect(connection)
    checks = {each["name"]: each["sqltext"] for each in look.get_check_constraints("prompts")}
    checks["ck_prompts_method_known"] = "whatever is known"
    return (
        [{**column, "type": str(column["type"])} for column in look.get_columns("prompts")],
        checks,
        look.get_pk_constraint("prompts"),
        sorted(look.get_foreign_keys("prompts"), key=lambda each: str(each["name"])),
        sorted(look.get_foreign_keys("aliases"), key=lambda each: str(each["name"])),
        sorted(look.get_unique_constraints("prompts"), key=lambda each: str(each["name"])),
        sorted(look.get_indexes("prompts"), key=lambda each: str(each["name"])),
        connection.execute(text("SELECT * FROM prompts ORDER BY id")).all(),
        connection.execute(text("SELECT * FROM aliases")).all(),
    )


def _with_revision(folder: Path, connection: Connection, steps: str) -> Config:
    """Return a configuration with one revision more than promptreg has, which takes ``steps``."""
    scripts = folder / "scripts"
    shutil.copytree(Path(str(files("promptreg_migrations"))), scripts)
    (scripts / "versions" / "9999_next.py").write_text(
        "import sqlalchemy as sa\n"
        "from alembic import op\n\n"
        f"revision, down_revision = '9999', '{schema.HEAD}'\n"
        "branch_labels = depends_on = None\n\n\n"
        f"def upgrade() -> None:\n    {steps}\n"
    )
    config = schema.configuration(connection)
    config.set_main_option("script_location", str(scripts))
    return config


def test_a_migration_that_fails_half_way_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    steps = "op.create_table('half', sa.Column('id', sa.Integer)); raise RuntimeError('half-way')"
    with pytest.raises(RuntimeError, match="half-way"), engine.begin() as connection:
        command.upgrade(_with_revision(tmp_path, connection, steps), "9999")
    assert set(inspect(engine).get_table_names()) == TABLES
    with engine.connect() as connection:
        assert schema.current_revision(connection) == schema.HEAD


def test_a_table_that_others_refer_to_can_be_made_anew(
    engine: Engine, empty_url: str, tmp_path: Path
) -> None:
    database = Database.open(empty_url)
    add_bases(database)
    version = push(database, "a", hyperparameters={"lr": 0.3}, aliases=("prod",))
    database.close()
    steps = (
        "batch = op.batch_alter_table('prompts', recreate='auto')\n"
        "    with batch as prompts:\n"
        "        prompts.alter_column('note', nullable=False, server_default='')\n"
        "        prompts.add_column(sa.Column('colour', sa.Text))"
    )
    with engine.begin() as connection:
        connection.execute(text("UPDATE prompts SET note = 'kept'"))
        command.upgrade(_with_revision(tmp_path, connection, steps), "9999")
        schema._check_foreign_keys(connection, "the test's")
        # The rest of this release runs on the table as it is now.
        connection.execute(
            text("UPDATE alembic_version SET version_num = :head"), {"head": schema.HEAD}
        )
    names = {column["name"] for column in inspect(engine).get_columns("prompts")}
    assert "colour" in names
    database = Database.open(empty_url)
    again = resolve(database, "sst2@prod")
    database.close()
    assert (again.ref, again.note, again.hyperparameters) == (version.ref, "kept", {"lr": 0.3})


def test_an_upgrade_that_breaks_a_reference_is_undone(upgraded_sqlite_url: str) -> None:
    engine = create_engine(urls.parse(upgraded_sqlite_url), migrating=True)

    def break_a_reference() -> None:
        with engine.execution_options(**{WRITING: True}).begin() as connection:
            connection.execute(text("INSERT INTO aliases VALUES (1, 1, 'prod', 1)"))
            schema._check_foreign_keys(connection, "the test's")

    with pytest.raises(DatabaseUnavailableError, match="rows of aliases would refer to rows"):
        break_a_reference()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM aliases")) == 0
    engine.dispose()


def _alembic(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if k != "PROMPTREG_DATABASE_URL"}
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_a_developer_upgrades_with_alembic_itself(tmp_path: Path) -> None:
    url = f"url=sqlite:///{tmp_path / 'dev.db'}"
    upgraded = _alembic("-x", url, "upgrade", "head")
    assert upgraded.returncode == 0, upgraded.stderr
    checked = _alembic("-x", url, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    Database.open(str(tmp_path / "dev.db")).close()


def test_alembic_without_a_database_says_how_to_name_one() -> None:
    done = _alembic("upgrade", "head")
    assert done.returncode != 0
    assert "alembic -x url=sqlite:///dev.db upgrade head" in done.stdout + done.stderr
