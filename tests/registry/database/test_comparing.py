"""The prompts that can be compared, the same on SQLite and on PostgreSQL."""

from collections.abc import Callable

import pytest

from promptreg.database import Database
from promptreg.errors import BaseModelNotFoundError
from promptreg.prompts import Method
from version_examples import GEMMA, LLAMA, add_bases, push


@pytest.fixture
def database(upgraded_url: str, open_database: Callable[[str], Database]) -> Database:
    database = open_database(upgraded_url)
    add_bases(database)
    return database


def test_they_are_all_prompts_of_prompt_tuning_on_one_base_model(database: Database) -> None:
    first = push(database, "a")
    second = push(database, "b", task="acme/spam")
    push(database, "c", base=LLAMA)
    for method in set(Method) - {Method.PROMPT_TUNING}:
        push(database, method.value, method=method)
    base, found = database.comparable("gemma")
    assert base.fingerprint == GEMMA.fingerprint
    assert [(each.ref, each.digest) for each in found] == [
        (second.ref, second.digest),
        (first.ref, first.digest),
    ]
    assert database.comparable(str(GEMMA.fingerprint))[1] == found


def test_a_yanked_one_is_not_compared(database: Database) -> None:
    push(database, "a")
    database.yank(push(database, "b"), reason="wrong labels", by="ada")
    assert [each.ref for each in database.comparable("gemma")[1]] == ["sst2@1"]


def test_there_may_be_none(database: Database) -> None:
    assert database.comparable("llama")[1] == ()
    with pytest.raises(BaseModelNotFoundError):
        database.comparable("mistral")
