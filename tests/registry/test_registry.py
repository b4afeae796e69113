import json
import multiprocessing
import pickle
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptreg import errors
from promptreg.canaries import Canary
from promptreg.digests import Digest
from promptreg.ensembles import members_of
from promptreg.prompts import Method, PromptVersion, Vote
from promptreg.registry import Registry
from samples import base_model, soft_prompt


class RegistryContract:
    """Subclass this and give it a ``registry`` fixture to try another pair of engines."""

    def test_what_is_pulled_is_what_was_pushed(self, registry: Registry) -> None:
        prompt = soft_prompt(template="{text}!", labels=("yes", "no"), init="random")
        registry.push(
            prompt, task="t", base=base_model(), hyperparameters={"lr": 0.3, "opt": "adam"}
        )
        pulled = registry.pull("t@1")
        assert dict(pulled.prompt.tensors) == dict(prompt.tensors)
        assert pulled.prompt.template == "{text}!"
        assert pulled.prompt.labels == ("yes", "no")
        assert dict(pulled.prompt.hyperparameters) == {"lr": 0.3, "opt": "adam"}
        assert pulled.base.table == base_model().table
        assert pulled.version.ref == "t@1"

    def test_the_version_names_the_digest_of_the_stored_tensors(self, registry: Registry) -> None:
        version = registry.push(soft_prompt(), task="t", base=base_model()).version
        stored = registry._objects.get(version.digest)
        assert Digest.of(stored) == version.digest
        assert len(stored) == version.size

    def test_the_same_prompt_again_is_the_version_that_exists(self, registry: Registry) -> None:
        first = registry.push(soft_prompt(), task="t", base=base_model())
        second = registry.push(soft_prompt(), task="t", base=base_model(), metrics={"f1": 0.5})
        assert first.created
        assert not second.created
        assert second.version.ref == first.version.ref
        assert dict(second.version.metrics) == {"f1": 0.5}
        assert len(registry.list().versions) == 1

    @pytest.mark.parametrize(
        ("manner", "said"),
        [
            ({"template": "no place"}, "the input has no one place in it"),
            ({"labels": ("a", "a")}, "it is given twice"),
            ({"labels": ("a", " ")}, "it is empty"),
        ],
    )
    def test_a_prompt_must_say_how_to_use_it(
        self, registry: Registry, manner: dict[str, Any], said: str
    ) -> None:
        for prompt, rest in ((soft_prompt(**manner), {}), (soft_prompt(), manner)):
            with pytest.raises(errors.InvalidValueError, match=said):
                registry.push(prompt, task="t", base=base_model(), **rest)
        assert registry.list().versions == ()

    def test_metrics_are_added_and_none_is_overwritten(self, registry: Registry) -> None:
        registry.push(soft_prompt(), task="t", base=base_model(), metrics={"f1": 0.5})
        version = registry.add_metrics("t@1", {"f1": 0.6, "accuracy": 0.9})
        assert dict(version.metrics) == {"accuracy": 0.9, "f1": 0.6}
        assert dict(registry.resolve("t").metrics) == dict(version.metrics)
        said = [event.detail for event in registry._database.events() if event.action == "measure"]
        assert said == ["f1=0.6, accuracy=0.9"]
        with pytest.raises(errors.NotFoundError):
            registry.add_metrics("t@2", {"f1": 0.6})
        with pytest.raises(errors.PromptregError):
            registry.add_metrics("t@1", {"f1": float("nan")})

    def test_what_was_measured_is_told_with_who_and_when(self, registry: Registry) -> None:
        for task in ("t", "u"):
            registry.push(soft_prompt(), task=task, base=base_model(), metrics={"f1": 0.5})
        registry.add_all_metrics({"t": {"f1": 0.75}, "u@1": {"accuracy": 0.9}})
        newest, before = registry.measurements("t")
        assert (newest.value, before.value) == (0.75, 0.5)
        assert newest.at == before.superseded_at
        assert newest.by == registry.resolve("t").pushed_by
        with pytest.raises(errors.NotFoundError):
            registry.add_all_metrics({"t": {"f1": 0.1}, "nothing": {"f1": 0.2}})
        assert registry.resolve("t").metrics["f1"] == 0.75

    def test_another_template_is_another_version(self, registry: Registry) -> None:
        registry.push(soft_prompt(), task="t", base=base_model())
        again = registry.push(soft_prompt(), task="t", base=base_model(), template="{text}?")
        assert again.version.ref == "t@2"
        assert again.created

    def test_the_same_prompt_on_another_base_is_another_version(self, registry: Registry) -> None:
        registry.push(soft_prompt(), task="t", base=base_model(0))
        assert registry.push(soft_prompt(), task="t", base=base_model(9)).version.ref == "t@2"

    def test_a_canary_comes_back(self, registry: Registry) -> None:
        canary = Canary(
            input_ids=((1, 2),),
            positions=((0, 1),),
            outputs=((0.5, 0.25),),
            dtype="F32",
            tolerance=1e-4,
        )
        registry.push(soft_prompt(), task="t", base=base_model(), canary=canary)
        assert registry.pull("t").canary == canary

    def test_a_prompt_pushed_without_its_canary_gets_one_later(self, registry: Registry) -> None:
        canary = Canary(
            input_ids=((1, 2),), positions=((0,),), outputs=((0.5,),), dtype="F32", tolerance=1e-4
        )
        registry.push(soft_prompt(), task="t", base=base_model())
        again = registry.push(soft_prompt(), task="t", base=base_model(), canary=canary)
        assert (again.version.ref, again.created) == ("t@1", False)
        assert registry.pull("t").canary == canary

    def test_aliases_lead_to_versions_and_move(self, registry: Registry) -> None:
        registry.push(soft_prompt(0), task="t", base=base_model(), aliases=("prod",))
        registry.push(soft_prompt(1), task="t", base=base_model())
        version, before = registry.set_alias("t@2", "prod")
        assert (version.ref, before and before.ref) == ("t@2", "t@1")
        assert version.aliases == ("prod",)
        assert registry.resolve("t@prod").ref == "t@2"

    def test_an_alias_on_two_bases_needs_the_base(self, registry: Registry) -> None:
        for seed in (0, 9):
            base = base_model(seed, name=f"base-{seed}")
            registry.push(soft_prompt(), task="t", base=base, aliases=("prod",))
        with pytest.raises(errors.AmbiguousReferenceError, match=r"t@2 for base-9.*t@1 for base-0"):
            registry.resolve("t@prod")
        assert registry.resolve("t@prod", base="base-9").ref == "t@2"

    def test_a_parent_is_kept_by_its_reference(self, registry: Registry) -> None:
        registry.push(soft_prompt(0), task="t", base=base_model(), aliases=("prod",))
        child = registry.push(soft_prompt(1), task="t", base=base_model(), parent="t@prod")
        assert child.version.parent == "t@1"

    def test_an_ensemble_is_a_version_like_any_other(self, registry: Registry) -> None:
        members = push_members(registry)
        metrics: dict[str, Any] = {"accuracy": np.float32(0.75)}
        pushed = registry.push_ensemble(
            [member.ref for member in members],
            vote="mean",
            metrics=metrics,
            aliases=("prod",),
            note="the best three",
        )
        version = pushed.version
        assert (version.ref, pushed.created, version.method) == ("t@4", True, Method.ENSEMBLE)
        assert (version.num_virtual_tokens, version.token_dim, version.canary) == (6, 8, None)
        assert (dict(version.metrics), version.note) == ({"accuracy": 0.75}, "the best three")
        assert registry.list(where="method = ensemble").versions == (version,)
        pulled = registry.pull("t@prod")
        assert pulled.version == version
        assert pulled.prompt.members == ("t@1", "t@2", "t@3")
        assert pulled.prompt.vote is Vote.MEAN
        assert pulled.base == registry.base(str(version.base))
        assert registry.manifest(version)["ensemble"] == {
            "members": ["t@1", "t@2", "t@3"],
            "vote": "mean",
        }
        for member, found in zip(members, members_of(pulled.prompt), strict=True):
            assert found.tensors == registry.pull(member.ref).prompt.tensors
            assert (found.template, found.labels) == ("{text}!", ("yes", "no"))

    def test_a_result_is_recorded_beside_the_prompts(self, registry: Registry) -> None:
        base = base_model(name="small")
        chosen: dict[str, Any] = {"seed": np.int64(1)}
        scored: dict[str, Any] = {"test_accuracy": np.float32(0.5), "train_seconds": 9.0}
        first = registry.record_result(
            task="t", base=base, method="model-tuning", hyperparameters=chosen, metrics=scored
        )
        assert registry.base("small").table == base.table
        again = registry.record_result(
            task="t",
            base="small",
            method="model-tuning",
            hyperparameters={"seed": 1},
            metrics={"test_accuracy": 0.5, "train_seconds": 3.0},
        )
        assert again == first
        assert registry.results() == registry.results("t") == (first,)
        assert registry.list("t").versions == ()
        registry.flush()
        record = registry._objects._read(f"records/t@result-{first.digest.hex}.json", 10_000)
        assert record is not None
        written = json.loads(record)
        assert written["base"]["table"] == str(Digest.of(table(0)))
        assert {key: written[key] for key in ("task", "method", "hyperparameters", "metrics")} == {
            "task": "t",
            "method": "model-tuning",
            "hyperparameters": {"seed": 1},
            "metrics": {"test_accuracy": 0.5, "train_seconds": 9.0},
        }

    @pytest.mark.parametrize(
        ("facts", "error"),
        [
            ({"task": "No Task"}, errors.InvalidNameError),
            ({"method": "prompt-tuning"}, errors.InvalidValueError),
            ({"metrics": {}}, errors.InvalidValueError),
            ({"metrics": {"accuracy": float("inf")}}, errors.InvalidValueError),
            ({"hyperparameters": {"no name": 1}}, errors.InvalidNameError),
            ({"base": "nobody"}, errors.BaseModelNotFoundError),
        ],
    )
    def test_what_is_no_result_registers_nothing_not_even_its_base(
        self, registry: Registry, facts: dict[str, Any], error: type[Exception]
    ) -> None:
        values: dict[str, Any] = {
            "task": "t",
            "base": base_model(),
            "method": "prompt-design",
            "metrics": {"accuracy": 0.5},
        }
        with pytest.raises(error):
            registry.record_result(**{**values, **facts})
        assert registry.results() == ()
        assert registry.bases() == []

    def test_an_ensemble_is_pinned_to_what_its_references_named(self, registry: Registry) -> None:
        push_members(registry)
        registry.set_alias("t@1", "prod")
        first = registry.push_ensemble(["t@prod", "t@2"]).version
        registry.set_alias("t@3", "prod")
        registry.yank("t@1", reason="leaked")
        assert registry.pull(first.ref).prompt.members == ("t@1", "t@2")
        assert registry.push_ensemble(["t@prod", "t@2"]).version.ref == "t@5"
        with pytest.raises(errors.InvalidValueError, match=r"it was yanked \(leaked\)"):
            registry.push_ensemble(["t@1", "t@2"])

    def test_the_same_ensemble_again_is_the_version_that_exists(self, registry: Registry) -> None:
        push_members(registry)
        first = registry.push_ensemble(["t@1", "t@2"])
        again = registry.push_ensemble(["t@1", "t@2"], metrics={"f1": 0.5})
        assert (again.version.ref, again.created) == (first.version.ref, False)
        assert dict(again.version.metrics) == {"f1": 0.5}
        assert registry.push_ensemble(["t@2", "t@1"]).version.ref == "t@5"
        assert registry.push_ensemble(["t@1", "t@2"], vote="mean").version.ref == "t@6"

    def test_an_ensemble_may_be_a_version_of_another_task(self, registry: Registry) -> None:
        push_members(registry)
        assert registry.push_ensemble(["t@1", "t@2"], task="a/t").version.ref == "a/t@1"

    def test_an_alias_on_two_bases_is_a_member_of_the_base_at_hand(
        self, registry: Registry
    ) -> None:
        for seed in (0, 9):
            base = base_model(seed, name=f"base-{seed}")
            registry.push(soft_prompt(0), task="t", base=base, aliases=("a",))
            registry.push(soft_prompt(1), task="t", base=base, aliases=("b",))
        with pytest.raises(errors.AmbiguousReferenceError):
            registry.push_ensemble(["t@a", "t@b"])
        version = registry.push_ensemble(["t@a", "t@b"], base="base-9").version
        assert (version.base_name, registry.pull(version.ref).prompt.members) == (
            "base-9",
            ("t@3", "t@4"),
        )
        with pytest.raises(errors.ConflictError, match="base model of t@3 is base-9"):
            registry.push_ensemble(["t@1", "t@3"])

    @pytest.mark.parametrize(
        ("members", "facts", "error"),
        [
            (["t@1"], {}, errors.InvalidValueError),
            ([], {}, errors.InvalidValueError),
            ("t@1", {}, errors.InvalidValueError),
            (["t@1", "t@1"], {}, errors.InvalidValueError),
            (["t@1", "t@2"], {"vote": "borda"}, errors.InvalidValueError),
            (["t@1", "t@2"], {"aliases": "prod"}, errors.InvalidValueError),
            (["t@1", "t@2"], {"aliases": ("7",)}, errors.InvalidNameError),
            (["t@1", "t@2"], {"task": "No Task"}, errors.InvalidNameError),
            (["t@1", "t@9"], {}, errors.PromptNotFoundError),
            (["t@1", "u@1"], {}, errors.ConflictError),
            (["t@1", "t@4"], {}, errors.InvalidValueError),
        ],
    )
    def test_what_is_no_ensemble_registers_nothing(
        self,
        registry: Registry,
        members: list[str],
        facts: dict[str, Any],
        error: type[Exception],
    ) -> None:
        push_members(registry)
        registry.push_ensemble(["t@1", "t@2"])
        registry.push(soft_prompt(7, **SAME), task="u", base=base_model())
        with pytest.raises(error):
            registry.push_ensemble(members, **facts)
        assert len(registry.list().versions) == 5

    def test_an_ensemble_of_more_tensors_than_a_prompt_has_registers_nothing(
        self, registry: Registry
    ) -> None:
        rows = soft_prompt().tensors["prompt_embeddings"]
        modules = {f"modules_to_save.score.{i}.weight": rows for i in range(32)}
        for seed in (0, 1):
            tensors = {**soft_prompt(seed).tensors, **modules}
            prompt = replace(soft_prompt(), tensors=tensors)
            registry.push(prompt, task="t", base=base_model())
        with pytest.raises(errors.InvalidArtifactError, match="66 tensors"):
            registry.push_ensemble(["t@1", "t@2"])
        assert len(registry.list().versions) == 2

    def test_a_yanked_version_is_not_the_newest(self, registry: Registry) -> None:
        for seed in (0, 1):
            registry.push(soft_prompt(seed), task="t", base=base_model())
        yanked = registry.yank("t@2", reason="leaked")
        assert yanked.yanked is not None
        assert yanked.yanked.reason == "leaked"
        assert registry.resolve("t").ref == "t@1"
        assert registry.resolve("t@2").yanked is not None

    def test_a_base_is_found_by_name_and_fingerprint(self, registry: Registry) -> None:
        base = registry.add_base(base_model(name="small"))
        assert registry.base("small") == base
        assert registry.base(str(base.fingerprint)) == base
        assert registry.base("small").table == base.table
        assert [known.name for known in registry.bases()] == ["small"]

    def test_a_base_s_name_belongs_to_one_set_of_weights(self, registry: Registry) -> None:
        registry.add_base(base_model(0, name="small"))
        with pytest.raises(errors.ConflictError, match="small"):
            registry.add_base(base_model(9, name="small"))

    def test_a_prompt_that_does_not_fit_leaves_nothing(self, registry: Registry) -> None:
        registry.add_base(base_model(name="small"))
        with pytest.raises(errors.IncompatibleModelError):
            registry.push(soft_prompt(width=7), task="t", base="small")
        assert registry.list().versions == ()
        with pytest.raises(errors.TaskNotFoundError):
            registry.resolve("t")

    def test_a_changed_object_is_an_error_and_never_a_prompt(self, registry: Registry) -> None:
        version = registry.push(soft_prompt(), task="t", base=base_model()).version
        registry._objects._write(version.digest.key, b"tampered")
        with pytest.raises(errors.CorruptObjectError, match=str(version.digest)):
            registry.pull("t")
        registry.push(soft_prompt(), task="t", base=base_model())
        assert registry.pull("t").version.ref == "t@1"

    def test_a_lost_object_says_which_one(self, registry: Registry) -> None:
        version = registry.push(soft_prompt(), task="t", base=base_model()).version
        registry._objects._write(version.digest.key, b"")
        with pytest.raises(errors.CorruptObjectError, match=str(version.digest)):
            registry.pull("t")

    def test_a_changed_manifest_is_an_error(self, registry: Registry) -> None:
        version = registry.push(soft_prompt(), task="t", base=base_model()).version
        registry._database._transactions.write(
            lambda connection: connection.exec_driver_sql("UPDATE manifests SET document = '{}'")
        )
        with pytest.raises(errors.CorruptObjectError, match=str(version.manifest)):
            registry.pull("t")

    def test_a_record_describes_each_version_beside_its_objects(self, registry: Registry) -> None:
        version = registry.push(soft_prompt(), task="a/b", base=base_model(), note="n").version
        registry.flush()
        data = registry._objects._read("records/a/b@1.json", 10_000)
        assert data is not None
        record = json.loads(data)
        assert record["digest"] == str(version.digest)
        assert Digest.of(record["manifest"].encode()) == version.manifest
        assert record["base"]["fingerprint"] == str(version.base)
        assert registry._objects.has(Digest(record["base"]["table"]))

    def test_versions_are_numbered_without_gaps_by_many_threads(self, registry: Registry) -> None:
        registry.add_base(base_model(name="small"))
        with ThreadPoolExecutor(8) as pool:
            pushed = list(
                pool.map(
                    lambda seed: registry.push(soft_prompt(seed % 6), task="t", base="small"),
                    range(12),
                )
            )
        assert sorted({one.version.version for one in pushed}) == [1, 2, 3, 4, 5, 6]
        assert sum(one.created for one in pushed) == 6

    def test_unknown_things_are_told_apart(self, registry: Registry) -> None:
        registry.push(soft_prompt(), task="sst2", base=base_model())
        with pytest.raises(errors.TaskNotFoundError, match="did you mean sst2"):
            registry.pull("sst3")
        with pytest.raises(errors.PromptNotFoundError, match="sst2@7"):
            registry.pull("sst2@7")
        with pytest.raises(errors.BaseModelNotFoundError, match="'big'"):
            registry.pull("sst2", base="big")

    def test_another_base_s_table_of_weights_is_noticed(self, registry: Registry) -> None:
        registry.push(soft_prompt(), task="t", base=base_model(0))
        registry.add_base(base_model(9))
        swap = (
            f"UPDATE base_models SET weight_table = '{Digest.of(table(9))}'"
            f" WHERE weight_table = '{Digest.of(table(0))}'"
        )
        registry._database._transactions.write(lambda connection: connection.exec_driver_sql(swap))
        registry._tables.clear()
        with pytest.raises(errors.CorruptObjectError, match="hashes to"):
            registry.pull("t")

    def test_a_closed_registry_says_so(self, registry: Registry) -> None:
        registry.push(soft_prompt(), task="t", base=base_model())
        registry.close()
        registry.close()
        for use in (registry.list, registry.bases, lambda: registry.pull("t")):
            with pytest.raises(errors.ClosedError, match="was closed"):
                use()
        with pytest.raises(errors.ClosedError):
            registry.push(soft_prompt(), task="t", base=base_model())

    def test_a_forked_child_works_on(self, registry: Registry) -> None:
        registry.push(soft_prompt(), task="t", base=base_model())
        registry.pull("t")
        with warnings.catch_warnings():
            # Threads are there when it forks: that is the point.
            warnings.simplefilter("ignore", DeprecationWarning)
            context = multiprocessing.get_context("fork")
            child = context.Process(target=lambda: registry.pull("t"))
            child.start()
        child.join(60)
        assert child.exitcode == 0

    @pytest.mark.parametrize(
        "facts", [{"aliases": "prod"}, {"labels": "abc"}, {"note": "x" * 10_001}]
    )
    def test_facts_of_the_wrong_kind_are_refused(
        self, registry: Registry, facts: dict[str, Any]
    ) -> None:
        with pytest.raises(errors.InvalidValueError):
            registry.push(soft_prompt(), task="t", base=base_model(), **facts)
        assert registry.list().versions == ()

    def test_numbers_of_numpy_are_numbers(self, registry: Registry) -> None:
        facts: dict[str, Any] = {"a": np.float32(0.5), "b": np.int64(3)}
        version = registry.push(soft_prompt(), task="t", base=base_model(), metrics=facts).version
        assert dict(version.metrics) == {"a": 0.5, "b": 3}

    def test_a_prompt_is_not_yanked_without_a_reason(self, registry: Registry) -> None:
        registry.push(soft_prompt(), task="t", base=base_model())
        with pytest.raises(errors.InvalidValueError, match="reason"):
            registry.yank("t@1", reason=" ")

    def test_what_was_pulled_can_be_sent_to_another_process(self, registry: Registry) -> None:
        registry.push(soft_prompt(), task="t", base=base_model(), hyperparameters={"lr": 0.3})
        pulled = registry.pull("t")
        assert pickle.loads(pickle.dumps(pulled)) == pulled


SAME: dict[str, Any] = {"template": "{text}!", "labels": ("yes", "no")}


def push_members(registry: Registry) -> list[PromptVersion]:
    """Push three prompts for one task, of 1, 2 and 3 tokens."""
    return [
        registry.push(soft_prompt(n, tokens=n, **SAME), task="t", base=base_model()).version
        for n in (1, 2, 3)
    ]


def table(seed: int) -> bytes:
    weights = base_model(seed).table
    assert weights is not None
    return weights.to_bytes()


class TestEmbedded(RegistryContract):
    @pytest.fixture
    def registry(self, upgraded_sqlite_url: str, tmp_path: Path) -> Iterator[Registry]:
        with Registry.open(upgraded_sqlite_url, str(tmp_path / "objects")) as registry:
            yield registry


class TestPostgresqlAndSeaweedFS(RegistryContract):
    @pytest.fixture
    def registry(self, upgraded_postgresql_url: str, seaweedfs_url: str) -> Iterator[Registry]:
        with Registry.open(upgraded_postgresql_url, seaweedfs_url) as registry:
            yield registry


class TestMoto(RegistryContract):
    @pytest.fixture
    def registry(self, upgraded_sqlite_url: str, moto_url: str) -> Iterator[Registry]:
        with Registry.open(upgraded_sqlite_url, moto_url) as registry:
            yield registry


def test_the_user_s_own_registry_makes_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTREG_DATA_DIR", str(tmp_path / "data"))
    with Registry.open() as registry:
        registry.push(soft_prompt(), task="t", base=base_model())
    with Registry.open() as registry:
        assert registry.pull("t").version.ref == "t@1"
    assert (tmp_path / "data" / "objects").is_dir()


def test_a_second_pull_comes_from_the_cache_and_is_verified(
    upgraded_sqlite_url: str, tmp_path: Path
) -> None:
    objects = tmp_path / "objects"
    with Registry.open(upgraded_sqlite_url, str(objects)) as registry:
        registry.push(soft_prompt(), task="t", base=base_model())
        registry.pull("t")
        shutil.rmtree(objects)
        assert registry.pull("t").version.ref == "t@1"


def test_a_record_that_cannot_be_written_does_not_undo_the_push(
    upgraded_sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "records").write_text("in the way")
    with Registry.open(upgraded_sqlite_url, str(tmp_path / "objects")) as registry:
        pushed = registry.push(soft_prompt(), task="t", base=base_model())
        assert registry.pull("t@1").version == pushed.version
    assert "t@1 is registered without its record" in caplog.text
