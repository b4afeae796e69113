"""The tables: what the database itself refuses, and that the names for reading are the names for writing."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, TableClause, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import NullType

from promptreg.database import Database, tables, urls
from promptreg.database.engine import WRITING, create_engine
from promptreg.database.orm import Base
from promptreg.database.timestamps import Timestamp
from promptreg.digests import Digest
from version_examples import LLAMA, add_bases, push


@pytest.fixture
def engine(upgraded_url: str) -> Iterator[Engine]:
    """A database with two versions, of which one is the other's parent, and a result."""
    database = Database.open(upgraded_url)
    add_bases(database)
    push(database, "a", hyperparameters={"lr": 0.3}, metrics={"accuracy": 0.9}, aliases=("prod",))
    push(database, "b", base=LLAMA, parent="sst2@1", hyperparameters={"optimizer": "adamw"})
    database.record_result(
        task="sst2",
        base=LLAMA.fingerprint,
        method="model-tuning",
        hyperparameters={},
        metrics={"accuracy": 0.9},
        by="ada",
    )
    database.close()
    engine = create_engine(urls.parse(upgraded_url))
    yield engine.execution_options(**{WRITING: True})
    engine.dispose()


OBJECT = str(Digest.of(b"nothing"))
COPIED = (
    "base_id, digest, manifest, method, task_type, placement, num_virtual_tokens, token_dim, "
    "pushed_by, pushed_at"
)


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE prompts SET version = 0", "ck_prompts_version_positive"),
        ("UPDATE prompts SET num_virtual_tokens = 0", "ck_prompts_num_virtual_tokens_positive"),
        ("UPDATE prompts SET token_dim = -1", "ck_prompts_token_dim_positive"),
        ("UPDATE prompts SET method = 'lora'", "ck_prompts_method_known"),
        ("UPDATE prompts SET task_type = 'CHAT'", "ck_prompts_task_type_known"),
        ("UPDATE prompts SET placement = 'suffix'", "ck_prompts_placement_known"),
        ("UPDATE prompts SET parent_id = id", "ck_prompts_parent_is_another"),
        ("UPDATE prompts SET yank_reason = 'x'", "ck_prompts_yank_is_whole"),
        ("UPDATE prompts SET yanked_at = pushed_at, yank_reason = 'x'", "ck_prompts_yank_is_whole"),
        ("UPDATE tasks SET next_version = 0", "ck_tasks_next_version_positive"),
        ("UPDATE objects SET size = -1", "ck_objects_size_not_negative"),
        ("UPDATE objects SET state = 'gone'", "ck_objects_state_known"),
        (
            "INSERT INTO objects (digest, state) VALUES ('md5:x', 'live')",
            "ck_objects_digest_is_sha256",
        ),
        ("UPDATE base_models SET fingerprint = 'bfp2:x'", "ck_base_models_fingerprint_is_bfp1"),
        ("UPDATE base_models SET token_dim = 0", "ck_base_models_token_dim_positive"),
        ("UPDATE base_models SET vocab_size = 0", "ck_base_models_vocab_size_positive"),
        ("UPDATE base_models SET num_layers = 0", "ck_base_models_num_layers_positive"),
        ("UPDATE base_models SET key_value_dim = 0", "ck_base_models_key_value_dim_positive"),
        ("UPDATE base_models SET parameters = 0", "ck_base_models_parameters_positive"),
        (
            "UPDATE hyperparameters SET kind = 'list' WHERE kind = 'text'",
            "ck_hyperparameters_kind_known",
        ),
        ("UPDATE hyperparameters SET number = NULL", "ck_hyperparameters_number_has_a_number"),
        ("UPDATE hyperparameters SET number = 1", "ck_hyperparameters_number_has_a_number"),
        ("UPDATE hyperparameters SET text = NULL", "ck_hyperparameters_text_has_a_text"),
        ("UPDATE metrics SET kind = 'list', number = NULL", "ck_metrics_kind_known"),
        ("UPDATE metrics SET number = NULL", "ck_metrics_number_has_a_number"),
        (
            "UPDATE metrics SET kind = 'text', number = NULL, text = NULL",
            "ck_metrics_text_has_a_text",
        ),
        ("UPDATE results SET method = ''", "ck_results_method_not_empty"),
        ("UPDATE results SET idempotency_key = 'x'", "ck_results_idempotency_key_is_sha256"),
    ],
)
def test_a_check_is_kept(engine: Engine, statement: str, constraint: str) -> None:
    with pytest.raises(IntegrityError, match=constraint), engine.begin() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize(
    "statement",
    [
        f"INSERT INTO prompts (task_id, version, idempotency_key, {COPIED})"
        f" SELECT task_id, version, 'other', {COPIED} FROM prompts",
        f"INSERT INTO prompts (task_id, version, idempotency_key, {COPIED})"
        f" SELECT task_id, version + 10, idempotency_key, {COPIED} FROM prompts",
        "INSERT INTO tasks (name, next_version) SELECT name, 1 FROM tasks",
        "UPDATE base_models SET name = 'gemma'",
        "UPDATE base_models SET fingerprint = (SELECT min(fingerprint) FROM base_models)",
        "INSERT INTO metrics (prompt_id, name, kind, number, recorded_by, recorded_at)"
        " SELECT prompt_id, name, kind, number, recorded_by, recorded_at FROM metrics",
        "INSERT INTO hyperparameters (prompt_id, name, kind, number)"
        " SELECT prompt_id, name, kind, number FROM hyperparameters",
        "INSERT INTO aliases SELECT * FROM aliases",
    ],
)
def test_what_is_unique_stays_unique(engine: Engine, statement: str) -> None:
    with pytest.raises(IntegrityError, match=r"UNIQUE|unique"), engine.begin() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM tasks",
        "DELETE FROM base_models",
        "DELETE FROM prompts",
        "DELETE FROM objects",
        f"UPDATE prompts SET digest = '{OBJECT}'",
        f"UPDATE prompts SET manifest = '{OBJECT}'",
        f"UPDATE prompts SET canary = '{OBJECT}'",
        f"UPDATE base_models SET weight_table = '{OBJECT}'",
        "UPDATE prompts SET parent_id = 99",
        "UPDATE results SET task_id = 99",
        "UPDATE results SET base_id = 99",
        # An alias for the one base model cannot name a version for the other.
        "UPDATE aliases SET base_id = base_id + 1",
        "UPDATE aliases SET prompt_id = prompt_id + 1",
    ],
)
def test_nothing_refers_to_what_is_not_there(engine: Engine, statement: str) -> None:
    with (
        pytest.raises(IntegrityError, match=r"FOREIGN KEY|foreign key"),
        engine.begin() as connection,
    ):
        connection.execute(text(statement))


def test_a_superseded_metric_may_have_a_newer_one(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE metrics SET superseded_at = recorded_at"))
        copied = "prompt_id, name, kind, number, recorded_by, recorded_at"
        for _ in range(2):
            connection.execute(
                text(
                    f"INSERT INTO metrics ({copied}, superseded_at)"
                    f" SELECT {copied}, recorded_at FROM metrics"
                )
            )


READ = [each for each in vars(tables).values() if isinstance(each, TableClause)]


@pytest.mark.parametrize("table", READ, ids=lambda table: table.name)
def test_the_names_for_reading_are_those_of_the_tables(table: TableClause) -> None:
    columns = Base.metadata.tables[table.name].columns
    for column in table.columns:
        moment = isinstance(columns[column.key].type, Timestamp)
        assert isinstance(column.type, Timestamp if moment else NullType), column.key


def test_all_tables_can_be_read() -> None:
    assert {table.name for table in READ} == set(Base.metadata.tables)
