"""What a database does, the same on SQLite and on PostgreSQL."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from promptreg.database import Database
from promptreg.digests import Digest
from promptreg.errors import (
    AmbiguousReferenceError,
    BaseModelNotFoundError,
    ConflictError,
    InvalidNameError,
    InvalidValueError,
    PromptNotFoundError,
    TaskNotFoundError,
)
from promptreg.prompts import Method, Placement, TaskType
from samples import base_model
from version_examples import GEMMA, LLAMA, add_bases, new_version, push, resolve


class DatabaseContract:
    """Subclass this and give it a ``database`` fixture, with GEMMA and LLAMA in it."""

    def test_a_base_model_comes_back_as_it_was_registered(self, database: Database) -> None:
        base = replace(
            base_model(9, name="google/gemma-3", encoder_decoder=True),
            head="a" * 64,
            source="./models/gemma",
            revision="main",
            tokenizer=Digest.of(b"tokenizer"),
            parameters=11_000_000_000,
        )
        table = Digest.of(b"table")
        assert database.add_base(base, table=table, by="ada") == base
        assert database.base("google/gemma-3") == (base, table)
        assert database.table(base.fingerprint) == table

    def test_a_base_model_registered_twice_is_there_once(self, database: Database) -> None:
        add_bases(database, GEMMA)
        assert [base.name for base in database.bases()] == ["gemma", "llama"]

    def test_a_base_model_gets_its_name_later(self, database: Database) -> None:
        add_bases(database, base_model(3))
        assert database.bases()[-1].name is None
        named = base_model(3, name="mistral")
        add_bases(database, named, base_model(3))
        assert database.base("mistral")[0].fingerprint == named.fingerprint

    def test_the_name_of_a_base_model_is_not_given_twice(self, database: Database) -> None:
        with pytest.raises(ConflictError, match="the name 'gemma' is that of the base model bfp1:"):
            add_bases(database, base_model(3, name="gemma"))
        add_bases(database, base_model(3))
        with pytest.raises(ConflictError, match="choose another name"):
            add_bases(database, base_model(3, name="gemma"))

    def test_a_base_model_keeps_its_name(self, database: Database) -> None:
        with pytest.raises(ConflictError, match=r"is registered as 'gemma', but .* named 'g3'"):
            add_bases(database, replace(GEMMA, name="g3"))

    def test_a_base_model_is_found_by_the_beginning_of_its_fingerprint(
        self, database: Database
    ) -> None:
        prefix = str(GEMMA.fingerprint)[: len("bfp1:") + 8]
        assert database.base(prefix)[0] == GEMMA
        assert database.base(str(GEMMA.fingerprint))[0] == GEMMA

    def test_the_beginning_of_two_fingerprints_is_ambiguous(self, database: Database) -> None:
        digits = str(GEMMA.fingerprint).removeprefix("bfp1:")[:10]
        twin = replace(
            GEMMA, table=None, fingerprint=type(GEMMA.fingerprint)(f"bfp1:{digits:0<64}"), name=None
        )
        add_bases(database, twin)
        with pytest.raises(AmbiguousReferenceError, match="write more digits"):
            database.base(f"bfp1:{digits}")

    @pytest.mark.parametrize("name", ["gemm", "bfp1:00000000", "bfp1:1234", "GEMMA", "gem%", ""])
    def test_an_unknown_base_model_is_an_error_that_lists_the_known(
        self, database: Database, name: str
    ) -> None:
        with pytest.raises(BaseModelNotFoundError, match="registered: gemma"):
            database.base(name)

    def test_a_base_model_with_a_text_that_no_database_takes_is_refused(
        self, database: Database
    ) -> None:
        with pytest.raises(InvalidValueError, match="the base model's source cannot be"):
            add_bases(database, replace(base_model(3), source="./\udcff"))
        with pytest.raises(InvalidNameError):
            add_bases(database, base_model(3, name="a b"))
        assert len(database.bases()) == 2

    def test_a_version_comes_back_as_it_was_registered(self, database: Database) -> None:
        before = datetime.now(UTC)
        first = push(database, "first")
        new = new_version(
            "second",
            canary=Digest.of(b"canary"),
            canary_size=6,
            method=Method.PREFIX_TUNING,
            task_type=TaskType.SEQ_2_SEQ_LM,
            placement=Placement.KEY_VALUES,
            init="vocabulary",
            parent="sst2@1",
            note="läuft\nüber zwei Zeilen",
            hyperparameters={"lr": 0.3, "steps": 200, "optimizer": "adafactor", "bias": False},
            metrics={"accuracy": 0.93, "verdict": "good"},
            aliases=("prod", "best", "prod"),
        )
        version, created = database.register(new)
        assert created
        assert version == resolve(database, "sst2@2")
        assert version.manifest == Digest.of(new.manifest)
        assert database.manifest(version) == new.manifest
        for field in ("digest", "size", "canary", "method", "task_type", "placement"):
            assert getattr(version, field) == getattr(new, field)
        for field in (
            "num_virtual_tokens",
            "token_dim",
            "init",
            "note",
            "hyperparameters",
            "metrics",
        ):
            assert getattr(version, field) == getattr(new, field)
        assert (version.ref, version.parent, first.ref) == ("sst2@2", "sst2@1", "sst2@1")
        assert (version.base, version.base_name) == (GEMMA.fingerprint, "gemma")
        assert version.aliases == ("best", "prod")
        assert version.pushed_by == "ada"
        assert before <= version.pushed_at <= datetime.now(UTC)
        assert version.pushed_at.utcoffset() == timedelta(0)
        assert version.yanked is None

    def test_the_versions_of_each_task_are_counted_from_one(self, database: Database) -> None:
        refs = [
            push(database, each, task=task).ref for each, task in zip("abcd", "xyxx", strict=True)
        ]
        assert refs == ["x@1", "y@1", "x@2", "x@3"]

    def test_the_same_key_again_is_the_same_version(self, database: Database) -> None:
        version, created = database.register(new_version("a", note="first"))
        again, created_again = database.register(new_version("a", note="second", parent=None))
        assert (created, created_again) == (True, False)
        assert again == version
        assert push(database, "b").version == 2, "no number was lost"

    def test_the_same_key_in_another_task_is_another_version(self, database: Database) -> None:
        assert push(database, "a", task="x").ref == "x@1"
        assert push(database, "a", task="y").ref == "y@1"

    def test_a_second_push_adds_metrics_and_sets_aliases(self, database: Database) -> None:
        push(database, "a", metrics={"accuracy": 0.8, "f1": 0.7}, hyperparameters={"lr": 0.3})
        again = push(
            database,
            "a",
            metrics={"accuracy": 0.9, "f1": 0.7, "loss": 1},
            hyperparameters={"lr": 0.5},
            aliases=("prod",),
        )
        assert again.metrics == {"accuracy": 0.9, "f1": 0.7, "loss": 1}
        assert again.hyperparameters == {"lr": 0.3}
        assert again.aliases == ("prod",)
        assert again == resolve(database, "sst2@prod")
        (measured,) = [event for event in database.events() if event.action == "measure"]
        assert measured.detail == "accuracy=0.9, loss=1"

    def test_every_value_that_a_metric_had_is_kept(self, database: Database) -> None:
        version = push(database, "a", metrics={"accuracy": 0.8, "curve": "10:0.5"})
        database.measure(version, {"accuracy": 0.9, "f1": 1}, by="bob")
        database.measure(version, {"accuracy": 0.9}, by="eve")  # the same value again is no other
        found = database.measurements(version)
        assert [(each.metric, each.value, each.by) for each in found] == [
            ("accuracy", 0.9, "bob"),
            ("accuracy", 0.8, "ada"),
            ("curve", "10:0.5", "ada"),
            ("f1", 1, "bob"),
        ]
        newest, before = found[:2]
        assert newest.superseded_at is None
        assert before.superseded_at == newest.at > before.at
        with pytest.raises(PromptNotFoundError, match="it is not registered here"):
            database.measurements(replace(version, version=2))

    def test_several_versions_are_measured_all_or_none(self, database: Database) -> None:
        first, second = push(database, "a"), push(database, "b", task="other")
        measured = database.measure_all([(second, {"f1": 0.5}), (first, {"f1": 0.6})], by="bob")
        assert [(each.ref, each.metrics) for each in measured] == [
            ("other@1", {"f1": 0.5}),
            ("sst2@1", {"f1": 0.6}),
        ]
        unknown = replace(second, version=9)
        for wrong in ((unknown, {"f1": 0.9}), (second, {"f1": float("nan")})):
            with pytest.raises((PromptNotFoundError, InvalidValueError)):
                database.measure_all([(first, {"f1": 0.9}), wrong], by="bob")
        assert resolve(database, "sst2@1").metrics == {"f1": 0.6}
        assert database.measure_all([], by="bob") == []

    def test_a_metric_of_another_type_is_another_value(self, database: Database) -> None:
        push(database, "a", metrics={"epochs": 1})
        value = push(database, "a", metrics={"epochs": 1.0}).metrics["epochs"]
        assert isinstance(value, float)

    def test_a_version_of_an_unknown_base_model_is_refused(self, database: Database) -> None:
        with pytest.raises(BaseModelNotFoundError):
            push(database, base=base_model(7))
        with pytest.raises(TaskNotFoundError):
            resolve(database, "sst2")

    @pytest.mark.parametrize(
        ("parent", "error"),
        [("other@1", TaskNotFoundError), ("sst2@7", PromptNotFoundError)],
    )
    def test_a_version_of_an_unknown_parent_is_refused(
        self, database: Database, parent: str, error: type[Exception]
    ) -> None:
        push(database, "a")
        with pytest.raises(error):
            push(database, "b", parent=parent)
        assert push(database, "b").version == 2

    def test_a_parent_may_be_of_another_task(self, database: Database) -> None:
        push(database, "a", task="acme/mail", aliases=("prod",))
        assert push(database, "b", parent="acme/mail@prod").parent == "acme/mail@1"

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_a_number_that_is_not_finite_is_refused(self, database: Database, value: float) -> None:
        with pytest.raises(
            InvalidValueError, match=r"the metric 'accuracy' cannot be '.*': it is no"
        ):
            push(database, metrics={"accuracy": value})
        with pytest.raises(InvalidValueError, match="hyperparameter 'lr'"):
            push(database, hyperparameters={"lr": value})

    @pytest.mark.parametrize("text", ["a\0b", "\ud800"])
    def test_a_text_that_no_database_takes_is_refused(self, database: Database, text: str) -> None:
        for fields in ({"note": text}, {"init": text}, {"metrics": {"m": text}}):
            with pytest.raises(InvalidValueError, match="NUL or a lone surrogate"):
                push(database, **fields)

    @pytest.mark.parametrize("name", ["", "a b", "x" * 129, "é", ".a", "a.", "a;b"])
    def test_a_name_that_no_filter_could_say_is_refused(
        self, database: Database, name: str
    ) -> None:
        with pytest.raises(InvalidNameError, match="name of a metric"):
            push(database, metrics={name: 1})

    def test_a_task_alone_is_its_newest_version(self, database: Database) -> None:
        push(database, "a")
        push(database, "b", base=LLAMA)
        assert resolve(database, "sst2").ref == "sst2@2"
        assert resolve(database, "sst2", base=GEMMA).ref == "sst2@1"

    def test_a_task_alone_passes_over_yanked_versions(self, database: Database) -> None:
        push(database, "a")
        database.yank(push(database, "b"), reason="diverged", by="ada")
        assert resolve(database, "sst2").ref == "sst2@1"
        database.yank(resolve(database, "sst2@1"), reason="diverged", by="ada")
        with pytest.raises(PromptNotFoundError, match="it has no version that is not yanked"):
            resolve(database, "sst2")

    def test_a_task_without_a_version_for_the_base_is_an_error(self, database: Database) -> None:
        push(database, "a")
        with pytest.raises(PromptNotFoundError, match=r"for the base model bfp1:.*there is sst2@1"):
            resolve(database, "sst2", base=LLAMA)

    def test_an_unknown_task_is_an_error_with_the_nearest_names(self, database: Database) -> None:
        push(database, "a", task="acme/mail-spam")
        with pytest.raises(TaskNotFoundError, match="did you mean acme/mail-spam"):
            resolve(database, "acme/mail-span")

    def test_an_unknown_version_is_an_error_with_the_known_ones(self, database: Database) -> None:
        push(database, "a")
        push(database, "b")
        with pytest.raises(PromptNotFoundError, match=r"no version 9; there is sst2@2, sst2@1"):
            resolve(database, "sst2@9")

    def test_an_unknown_alias_is_an_error_with_the_known_ones(self, database: Database) -> None:
        push(database, "a", aliases=("prod", "best"))
        with pytest.raises(
            PromptNotFoundError, match=r"alias 'prd'; there is sst2@best, sst2@prod"
        ):
            resolve(database, "sst2@prd")

    def test_an_alias_is_for_a_task_and_a_base_model(self, database: Database) -> None:
        push(database, "a", aliases=("prod",))
        push(database, "b", base=LLAMA, aliases=("prod",))
        push(database, "c", task="cola", aliases=("prod",))
        assert resolve(database, "sst2@prod", base=GEMMA).ref == "sst2@1"
        assert resolve(database, "sst2@prod", base=LLAMA).ref == "sst2@2"
        assert resolve(database, "cola@prod").ref == "cola@1"

    def test_an_alias_for_two_base_models_is_ambiguous_without_one(
        self, database: Database
    ) -> None:
        push(database, "a", aliases=("prod",))
        push(database, "b", base=LLAMA, aliases=("prod",))
        with pytest.raises(AmbiguousReferenceError) as caught:
            resolve(database, "sst2@prod")
        short = f"{GEMMA.fingerprint.short}…"
        assert f"sst2@1 for gemma ({short})" in caught.value.candidates
        assert str(caught.value).endswith("name the base with --base")

    def test_an_alias_moves(self, database: Database) -> None:
        first, second = push(database, "a", aliases=("prod",)), push(database, "b")
        assert database.set_alias(second, "prod", by="bob") == replace(first, aliases=())
        assert resolve(database, "sst2@prod").ref == "sst2@2"
        assert resolve(database, "sst2@1").aliases == ()

    def test_an_alias_that_was_not_there_has_no_version_before(self, database: Database) -> None:
        assert database.set_alias(push(database), "prod", by="ada") is None

    def test_an_alias_set_twice_is_set_once(self, database: Database) -> None:
        version = push(database, aliases=("prod",))
        before = database.set_alias(version, "prod", by="bob")
        assert before is not None
        assert before.ref == version.ref
        assert [event.action for event in database.events()].count("alias") == 1

    def test_an_alias_outside_the_grammar_is_refused(self, database: Database) -> None:
        with pytest.raises(InvalidNameError):
            database.set_alias(push(database), "3", by="ada")

    def test_an_alias_of_a_version_that_is_not_here_is_an_error(self, database: Database) -> None:
        version = replace(push(database), version=9)
        with pytest.raises(PromptNotFoundError, match="it is not registered here"):
            database.set_alias(version, "prod", by="ada")
        with pytest.raises(PromptNotFoundError):
            database.yank(replace(version, task="elsewhere"), reason="old", by="ada")
        with pytest.raises(TaskNotFoundError):
            resolve(database, "elsewhere")

    def test_a_yanked_version_stays_readable_by_its_number(self, database: Database) -> None:
        before = datetime.now(UTC)
        yanked = database.yank(push(database), reason="wrong labels", by="ada")
        assert yanked == resolve(database, "sst2@1")
        assert yanked.yanked is not None
        assert yanked.yanked.reason == "wrong labels"
        assert before <= yanked.yanked.when <= datetime.now(UTC)

    def test_a_version_yanked_twice_keeps_its_first_reason(self, database: Database) -> None:
        once = database.yank(push(database), reason="wrong labels", by="ada")
        assert database.yank(once, reason="another", by="bob") == once
        assert [event.action for event in database.events()].count("yank") == 1

    def test_the_alias_of_a_yanked_version_says_why_it_no_longer_serves(
        self, database: Database
    ) -> None:
        database.yank(push(database, aliases=("prod",)), reason="wrong labels", by="ada")
        with pytest.raises(PromptNotFoundError, match=r"sst2@1 was yanked \(wrong labels\)"):
            resolve(database, "sst2@prod")

    def test_an_alias_does_not_become_unambiguous_by_a_yank(self, database: Database) -> None:
        push(database, "a", aliases=("prod",))
        other = push(database, "b", base=LLAMA, aliases=("prod",))
        database.yank(other, reason="wrong labels", by="ada")
        with pytest.raises(AmbiguousReferenceError, match="yanked"):
            resolve(database, "sst2@prod")

    def test_a_yanked_version_gets_no_alias(self, database: Database) -> None:
        version = database.yank(push(database), reason="wrong labels", by="ada")
        with pytest.raises(
            ConflictError, match=r"sst2@1 was yanked \(wrong labels\), but the alias"
        ):
            database.set_alias(version, "prod", by="ada")
        with pytest.raises(ConflictError):
            push(database, aliases=("prod",))

    def test_a_version_is_found_by_the_beginning_of_its_digest(self, database: Database) -> None:
        version = push(database)
        assert resolve(database, str(version.digest)[: len("sha256:") + 8]) == version
        assert resolve(database, str(version.digest)) == version

    def test_the_same_bytes_in_two_tasks_are_ambiguous(self, database: Database) -> None:
        version = push(database, task="x")
        push(database, task="y")
        with pytest.raises(AmbiguousReferenceError, match="x@1 for gemma") as caught:
            resolve(database, str(version.digest))
        assert len(caught.value.candidates) == 2

    def test_an_unknown_digest_is_an_error(self, database: Database) -> None:
        push(database)
        with pytest.raises(PromptNotFoundError, match="no registered prompt's digest begins so"):
            resolve(database, "sha256:00000000")

    def test_everything_that_was_done_is_an_event(self, database: Database) -> None:
        first = push(database, "a", aliases=("prod",))
        database.set_alias(push(database, "b"), "prod", by="bob")
        database.yank(first, reason="wrong labels", by="eve")
        done = [
            (event.by, event.action, event.subject, event.detail) for event in database.events()
        ]
        assert done == [
            ("eve", "yank", "sst2@1", "wrong labels"),
            ("bob", "alias", "sst2@2", "prod, which was sst2@1"),
            ("ada", "push", "sst2@2", None),
            ("ada", "alias", "sst2@1", "prod"),
            ("ada", "push", "sst2@1", None),
            ("ada", "add-base", str(LLAMA.fingerprint), "llama"),
            ("ada", "add-base", str(GEMMA.fingerprint), "gemma"),
        ]
        assert len(database.events(limit=2)) == 2

    def test_what_fails_leaves_nothing_behind(self, database: Database) -> None:
        version = database.yank(push(database), reason="wrong labels", by="ada")
        events = database.events()
        with pytest.raises(ConflictError):
            push(database, metrics={"accuracy": 0.9}, aliases=("prod",))
        assert resolve(database, version.ref) == version
        assert database.events() == events

    def test_it_is_named_by_its_url(self, database: Database) -> None:
        assert str(database).startswith(("sqlite:///", "postgresql://"))


class TestSqlite(DatabaseContract):
    @pytest.fixture
    def database(
        self, upgraded_sqlite_url: str, open_database: Callable[[str], Database]
    ) -> Database:
        database = open_database(upgraded_sqlite_url)
        add_bases(database)
        return database


class TestPostgresql(DatabaseContract):
    @pytest.fixture
    def database(
        self, upgraded_postgresql_url: str, open_database: Callable[[str], Database]
    ) -> Database:
        database = open_database(upgraded_postgresql_url)
        add_bases(database)
        return database
