"""Results without a prompt, the same on SQLite and on PostgreSQL."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from promptreg.database import Database
from promptreg.errors import (
    BaseModelNotFoundError,
    InvalidNameError,
    InvalidValueError,
    TaskNotFoundError,
)
from promptreg.results import Result
from samples import base_model
from version_examples import GEMMA, LLAMA, add_bases, push


def record(database: Database, accuracy: float = 0.5, **fields: Any) -> Result:
    values: dict[str, Any] = {
        "task": "sst2",
        "base": GEMMA.fingerprint,
        "method": "prompt-design",
        "hyperparameters": {"shots": 0},
        "metrics": {"test_accuracy": accuracy},
        "by": "ada",
    }
    return database.record_result(**{**values, **fields})


class ResultsContract:
    """Subclass this and give it a ``database`` fixture, with GEMMA and LLAMA in it."""

    def test_a_result_comes_back_as_it_was_recorded(self, database: Database) -> None:
        large = 10**40 + 1
        hyperparameters = {
            "seed": 3,
            "lr": 1.0,
            "clip": True,
            "template": "ü {text}\n→",
            "n": large,
        }
        recorded = record(database, hyperparameters=hyperparameters, method="model-tuning")
        assert database.results("sst2") == (recorded,)
        assert recorded.hyperparameters == hyperparameters
        assert {key: type(value) for key, value in recorded.hyperparameters.items()} == {
            key: type(value) for key, value in hyperparameters.items()
        }
        assert (recorded.base, recorded.base_name) == (GEMMA.fingerprint, "gemma")
        assert (recorded.method, recorded.recorded_by) == ("model-tuning", "ada")
        assert database.results()[0].digest == recorded.digest

    def test_a_result_is_an_event_and_no_version(self, database: Database) -> None:
        recorded = record(database)
        event = database.events()[0]
        assert (event.action, event.subject, event.detail) == (
            "record-result",
            "sst2",
            "prompt-design on gemma",
        )
        assert event.at == recorded.recorded_at
        assert database.page(task="sst2").versions == ()
        assert push(database).ref == "sst2@1"

    def test_the_same_result_again_is_the_one_that_exists(self, database: Database) -> None:
        slow = {"test_accuracy": 0.5, "train_seconds": 100.0}
        first = record(database, metrics=slow)
        events = database.events()
        again = record(database, metrics={**slow, "train_seconds": 1.0}, by="bob")
        assert again == first
        assert database.events() == events
        for other in ({"base": LLAMA.fingerprint}, {"accuracy": 0.6}, {"task": "mail"}):
            assert record(database, **other) != first
        assert len(database.results()) == 4

    def test_the_newest_comes_first_and_a_task_may_hold_wildcards(self, database: Database) -> None:
        for number, task in enumerate(("a/x", "a/y", "b")):
            record(database, number / 10, task=task)
        assert [each.task for each in database.results()] == ["b", "a/y", "a/x"]
        assert [each.task for each in database.results("a/*")] == ["a/y", "a/x"]
        assert [each.task for each in database.results("?")] == ["b"]
        assert database.results("c*") == ()
        with pytest.raises(TaskNotFoundError, match="did you mean a/x"):
            database.results("a/xx")

    @pytest.mark.parametrize(
        ("wrong", "error"),
        [
            ({"task": "No"}, InvalidNameError),
            ({"method": "No"}, InvalidNameError),
            ({"method": "prompt-tuning"}, InvalidValueError),
            ({"base": base_model(9).fingerprint}, BaseModelNotFoundError),
            ({"metrics": {"a b": 1}}, InvalidNameError),
            ({"metrics": {"accuracy": float("nan")}}, InvalidValueError),
            ({"hyperparameters": {"template": "\0"}}, InvalidValueError),
            ({"by": "\ud800"}, InvalidValueError),
        ],
    )
    def test_what_cannot_be_kept_leaves_nothing(
        self, database: Database, wrong: dict[str, Any], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            record(database, **wrong)
        assert database.results() == ()
        with pytest.raises(TaskNotFoundError):
            database.results("sst2")

    def test_a_task_that_no_text_holds_is_refused(self, database: Database) -> None:
        with pytest.raises(InvalidValueError, match="the task"):
            database.results("\0*")

    def test_one_result_recorded_at_once_by_many_is_there_once(self, database: Database) -> None:
        with ThreadPoolExecutor(4) as pool:
            recorded = list(pool.map(lambda _: record(database), range(8)))
        assert all(each == recorded[0] for each in recorded)
        assert database.results() == (recorded[0],)


class TestSqlite(ResultsContract):
    @pytest.fixture
    def database(
        self, upgraded_sqlite_url: str, open_database: Callable[[str], Database]
    ) -> Database:
        database = open_database(upgraded_sqlite_url)
        add_bases(database)
        return database


class TestPostgresql(ResultsContract):
    @pytest.fixture
    def database(
        self, upgraded_postgresql_url: str, open_database: Callable[[str], Database]
    ) -> Database:
        database = open_database(upgraded_postgresql_url)
        add_bases(database)
        return database
