"""The closest registered prompts: SPoT's measures, like compared with like, and weak similarity said so."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from prompt_examples import prompt_of, soft_prompt
from promptreg.artifacts.arrays import from_array
from promptreg.errors import (
    BaseModelNotFoundError,
    CorruptObjectError,
    InvalidValueError,
    TaskNotFoundError,
)
from promptreg.prompts import Method, PromptVersion
from promptreg.registry import Registry
from promptreg.tuning import similar, similar_to
from promptreg.tuning.neighbours import Compared, Weakness, least_cosine
from samples import base_model

WIDTH = 256
BASE = base_model(width=WIDTH, layers=3, name="tiny")
Array = NDArray[Any]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    Registry.upgrade(str(tmp_path / "promptreg.db"))
    with Registry.open(str(tmp_path / "promptreg.db"), str(tmp_path / "objects")) as opened:
        yield opened


def draw(seed: int, tokens: int = 4) -> Array:
    """Return [tokens, WIDTH] tokens that have little to do with each other."""
    return np.random.default_rng(seed).standard_normal((tokens, WIDTH)).astype("<f4")


def near(rows: Array, seed: int, *, by: float = 0.3) -> Array:
    """Return what is near to ``rows``."""
    return rows + by * draw(seed, len(rows))


def push(
    registry: Registry, task: str, rows: Array, early: Array | None = None, **fields: Any
) -> PromptVersion:
    tensors = {"prompt_embeddings": from_array(rows)}
    if early is not None:
        tensors["task_embedding"] = from_array(early)
    prompt = soft_prompt(len(rows), WIDTH, tensors=tensors, init=fields.pop("init", None))
    return registry.push(prompt, task=task, base=BASE, **fields).version


def cosine(one: Array, other: Array) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def per_token(one: Array, other: Array) -> float:
    return float(np.mean([cosine(a, b) for a in one for b in other]))


class TestSimilar:
    def test_both_measures_are_those_of_their_definition(self, registry: Registry) -> None:
        own = draw(0, 3)
        others = {"a": near(own[:2], 1), "b": draw(2, 5), "c": -own}
        push(registry, "own", own)
        for task, rows in others.items():
            push(registry, task, rows)
        found = similar(registry, "own").neighbours
        assert [each.version.task for each in found] == ["a", "b", "c"]
        for each in found:
            rows = others[each.version.task]
            assert each.cosine == pytest.approx(cosine(own.mean(0), rows.mean(0)), abs=1e-5)
            assert each.per_token == pytest.approx(per_token(own, rows), abs=1e-5)

    def test_centred_cosines_are_seen_from_the_mean_of_the_tasks(self, registry: Registry) -> None:
        own, shared = draw(0, 1), 10 * draw(99, 1)
        others = {"a": near(own, 1), "b": draw(2, 1), "c": draw(3, 1)}
        push(registry, "own", own + shared)
        for task, rows in others.items():
            push(registry, task, rows + shared)
        push(registry, "b", others["b"] + shared + 0.2 * draw(7, 1))  # a task counts once
        found = similar(registry, "own", limit=2)
        twice = others["b"] + 0.1 * draw(7, 1)
        centre = (others["a"] + twice + others["c"])[0] / 3
        best = found.neighbours[0]
        assert best.version.task == "a"
        assert min(each.cosine for each in found.neighbours) > 0.97
        assert best.centred == pytest.approx(
            cosine(own[0] - centre, others["a"][0] - centre), abs=1e-4
        )
        assert best.weak is None
        assert found.nearest == best
        assert f"seen from the mean of the {found.tasks} tasks" in found.verdict

    def test_like_is_compared_with_like(self, registry: Registry) -> None:
        early, late = draw(0), draw(1)
        push(registry, "own", late, early)
        push(registry, "early", draw(2), near(early, 3))
        push(registry, "late", near(late, 4))
        push(registry, "crossed", near(early, 5), near(late, 6))
        found = similar(registry, "own")
        how = {each.version.task: (each.compared, each.cosine > 0.5) for each in found.neighbours}
        assert how == {
            "early": (Compared.TASK_EMBEDDINGS, True),
            "late": (Compared.PROMPTS, True),
            "crossed": (Compared.TASK_EMBEDDINGS, False),
        }
        assert found.notes[0].startswith("1 of 3 prompts have no task embedding")

    def test_a_prompt_without_a_task_embedding_is_compared_as_it_became(
        self, registry: Registry
    ) -> None:
        own = draw(0)
        push(registry, "own", own)
        push(registry, "tuned", near(own, 1), draw(2))
        found = similar(registry, "own")
        assert found.neighbours[0].compared is Compared.PROMPTS
        assert found.neighbours[0].cosine > 0.9
        assert found.notes == ()

    def test_versions_of_the_same_task_are_told_apart(self, registry: Registry) -> None:
        own = draw(0)
        push(registry, "own", own)
        push(registry, "own", near(own, 1))
        push(registry, "other", near(own, 2, by=1.0))
        found = similar(registry, "own@1")
        assert [(each.version.ref, each.same_task) for each in found.neighbours] == [
            ("own@2", True),
            ("other@1", False),
        ]
        assert found.nearest is not None
        assert found.nearest.version.ref == "other@1"
        alone = similar(registry, "own@1", exclude_tasks=["own"])
        assert [each.version.ref for each in alone.neighbours] == ["other@1"]
        assert (alone.prompts, alone.tasks) == (1, 1)

    def test_the_closest_of_another_task_is_known_beyond_the_limit(
        self, registry: Registry
    ) -> None:
        own = draw(0)
        for seed in range(3):
            push(registry, "own", near(own, seed, by=0.1))
        push(registry, "other", near(own, 9, by=0.5))
        found = similar(registry, "own@1", limit=1)
        assert [each.version.task for each in found.neighbours] == ["own"]
        assert found.nearest is not None
        assert found.nearest.version.ref == "other@1"

    def test_yanked_prompts_and_those_of_other_base_models_are_no_neighbours(
        self, registry: Registry
    ) -> None:
        own = draw(0)
        push(registry, "own", own)
        push(registry, "a", near(own, 1))
        push(registry, "a", near(own, 2))
        registry.yank("a@1", reason="wrong labels")
        other = base_model(1, width=WIDTH, name="other")
        registry.push(
            soft_prompt(4, WIDTH, tensors={"prompt_embeddings": from_array(own)}),
            task="elsewhere",
            base=other,
        )
        assert [each.version.ref for each in similar(registry, "own").neighbours] == ["a@2"]

    def test_new_versions_are_found_by_the_next_call(self, registry: Registry) -> None:
        own = draw(0)
        push(registry, "own", own)
        assert similar(registry, "own").neighbours == ()
        push(registry, "a", near(own, 1))
        push(registry, "b", near(own, 2, by=0.1), draw(3))
        found = [each.version.ref for each in similar(registry, "own").neighbours]
        assert found == ["b@1", "a@1"]

    def test_where_nothing_is_registered_that_is_said(self, registry: Registry) -> None:
        push(registry, "own", draw(0))
        found = similar(registry, "own")
        assert found.weak
        assert found.nearest is None
        assert found.verdict == f"no prompt of another task can be compared on {found.base}"

    @pytest.mark.parametrize("method", sorted(set(Method) - {Method.PROMPT_TUNING}))
    def test_other_methods_are_refused(self, registry: Registry, method: Method) -> None:
        prompt = prompt_of(method)
        registry.push(prompt, task="own", base=base_model(2, width=8, layers=3))
        with pytest.raises(InvalidValueError, match=f"it is {method}, and prompts of prompt-tun"):
            similar(registry, "own")

    @pytest.mark.parametrize("limit", [0, -1, 1001])
    def test_a_limit_has_bounds(self, registry: Registry, limit: int) -> None:
        push(registry, "own", draw(0))
        with pytest.raises(InvalidValueError, match="1 to 1000 prompts"):
            similar(registry, "own", limit=limit)

    def test_one_task_is_no_list_of_tasks(self, registry: Registry) -> None:
        push(registry, "own", draw(0))
        with pytest.raises(InvalidValueError, match=r"pass \['own'\]"):
            similar(registry, "own", exclude_tasks="own")

    def test_a_task_that_is_not_there_is_named(self, registry: Registry) -> None:
        with pytest.raises(TaskNotFoundError, match="'nothing'"):
            similar(registry, "nothing")

    def test_its_own_damaged_object_is_an_error_and_anothers_is_left_out(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        own, other = push(registry, "own", draw(0)), push(registry, "other", draw(1))
        push(registry, "third", draw(2))
        (tmp_path / "objects" / other.digest.key).write_bytes(b"something else")
        found = similar(registry, "own")
        assert [each.version.task for each in found.neighbours] == ["third"]
        assert found.notes[0].startswith("left out, because the store does not hold what was push")
        assert "other@1" in found.notes[0]
        with pytest.raises(CorruptObjectError, match=str(other.digest)):
            similar(registry, "other")
        assert similar(registry, "third").neighbours[0].version == registry.resolve(own.ref)


class TestWeakness:
    def test_unrelated_prompts_are_weak(self, registry: Registry) -> None:
        for seed in range(12):
            push(registry, f"task-{seed}", draw(seed))
        found = similar(registry, "task-0")
        assert found.weak
        assert found.neighbours[0].weak is Weakness.LOW
        assert found.verdict.startswith("similarity is weak: the closest of another task is task-")
        assert "is low (unrelated prompts reach up to 0.2" in found.verdict

    def test_what_all_prompts_share_is_weak(self, registry: Registry) -> None:
        shared = 10 * draw(99)
        for seed in range(12):
            push(registry, f"task-{seed}", draw(seed) + shared)
        found = similar(registry, "task-0")
        assert found.neighbours[0].cosine > 0.97
        assert found.neighbours[0].weak is Weakness.SHARED
        assert found.weak
        assert "is what all 11 tasks share: seen from their mean" in found.verdict

    def test_of_two_tasks_nothing_tells_whether_one_stands_out(self, registry: Registry) -> None:
        own = draw(0)
        for task, rows in (("own", own), ("a", near(own, 1)), ("b", near(own, 2))):
            push(registry, task, rows)
        found = similar(registry, "own")
        assert [each.centred for each in found.neighbours] == [None, None]
        assert not found.weak
        assert "with 2 tasks in all nothing tells whether that stands out" in found.verdict

    def test_the_bar_rises_where_chance_reaches_far(self) -> None:
        assert least_cosine(640, 1000) == 0.2
        assert least_cosine(64, 1000) > least_cosine(64, 2) > least_cosine(640, 2) == 0.2
        assert least_cosine(640, 1000, spread=0.1) > least_cosine(640, 100, spread=0.1) > 0.2

    def test_the_closest_of_many_unrelated_prompts_in_a_narrow_space_does_not_stand_out(
        self, registry: Registry
    ) -> None:
        # As an embedding space is: all lies in one corner, and few directions count in it.
        shared, few = 10 * draw(99, 1), draw(98, 12)
        chance = np.random.default_rng(0)
        for seed in range(30):
            mixed = chance.standard_normal((4, len(few))).astype("<f4") @ few
            push(registry, f"task-{seed}", mixed + shared)
        for task in range(0, 30, 7):
            found = similar(registry, f"task-{task}")
            assert found.neighbours[0].cosine > 0.8
            assert max(each.centred or 0 for each in found.neighbours) > 0.2
            assert found.least_centred > 0.4
            assert found.weak

    @pytest.mark.parametrize(
        ("own", "other", "kin"),
        [
            ({"init": "text:sort"}, {"init": "text:sort"}, "both began as text:sort"),
            ({"init": "text:sort"}, {"init": "text:rank"}, None),
            ({"init": "random"}, {"init": "random"}, None),
            (
                {"init": "random", "hyperparameters": {"seed": 3}},
                {"init": "random", "hyperparameters": {"seed": 3}},
                "both began as random with seed 3",
            ),
            (
                {"init": "random", "hyperparameters": {"seed": 3}},
                {"init": "random", "hyperparameters": {"seed": 4}},
                None,
            ),
            ({}, {"parent": "own@1"}, "other@1 was started from own@1"),
        ],
    )
    def test_those_that_began_alike_are_kin(
        self, registry: Registry, own: dict[str, Any], other: dict[str, Any], kin: str | None
    ) -> None:
        rows = draw(0)
        push(registry, "own", rows, **own)
        push(registry, "other", near(rows, 1), **other)
        found = similar(registry, "own")
        assert found.neighbours[0].kin == kin
        assert (kin is not None) == ("alike by itself" in found.verdict)

    def test_the_same_tensors_are_kin(self, registry: Registry) -> None:
        for task in ("own", "other"):
            push(registry, task, draw(0))
        (found,) = similar(registry, "own").neighbours
        assert found.kin == "their tensors are the same"
        assert found.cosine == pytest.approx(1)


class TestSimilarTo:
    def test_an_early_prompt_is_compared_with_task_embeddings_alone(
        self, registry: Registry
    ) -> None:
        early = draw(0, 7)
        push(registry, "tuned", draw(1), near(early[:4], 2, by=0.1))
        push(registry, "pushed", near(early, 3))
        found = similar_to(registry, early, base="tiny")
        assert [each.version.task for each in found.neighbours] == ["tuned"]
        assert found.neighbours[0].compared is Compared.TASK_EMBEDDINGS
        assert found.notes == (
            "left out for lack of a task embedding: 1 of 2 prompts, for an early prompt is not compared "
            "with what others became",
        )
        late = similar_to(registry, early, base="tiny", early=False)
        assert [each.version.task for each in late.neighbours] == ["pushed", "tuned"]
        assert {each.compared for each in late.neighbours} == {Compared.PROMPTS}

    def test_tasks_can_be_left_out(self, registry: Registry) -> None:
        own = draw(0)
        for task in ("a", "b"):
            push(registry, task, near(own, ord(task)))
        found = similar_to(registry, own, base="tiny", early=False, exclude_tasks=["a"])
        assert [each.version.task for each in found.neighbours] == ["b"]
        assert found.nearest == found.neighbours[0]

    @pytest.mark.parametrize("rows", [np.zeros((0, WIDTH)), np.zeros((4, 8)), np.zeros(WIDTH)])
    def test_what_is_no_prompt_for_the_base_model_is_refused(
        self, registry: Registry, rows: Array
    ) -> None:
        registry.add_base(BASE)
        with pytest.raises(InvalidValueError, match=f"are .tokens, {WIDTH}"):
            similar_to(registry, rows, base="tiny")

    def test_what_is_not_finite_is_refused(self, registry: Registry) -> None:
        registry.add_base(BASE)
        with pytest.raises(InvalidValueError, match="NaN"):
            similar_to(registry, np.full((2, WIDTH), np.nan), base="tiny")

    def test_a_base_model_that_is_not_registered_is_named(self, registry: Registry) -> None:
        with pytest.raises(BaseModelNotFoundError, match="'tiny'"):
            similar_to(registry, draw(0), base="tiny")
