from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from prompt_examples import prompt_of, soft_prompt, tensor, tuned_prompt
from promptreg.digests import Digest
from promptreg.ensembles import combine, members_of
from promptreg.errors import ConflictError, InvalidValueError
from promptreg.layouts import check_layout
from promptreg.prompts import (
    Method,
    Placement,
    PromptVersion,
    PulledPrompt,
    SoftPrompt,
    TaskType,
    Vote,
    Yanked,
)
from samples import base_model

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SAME: dict[str, Any] = {
    "task_type": TaskType.CAUSAL_LM,
    "template": "{text} It was",
    "labels": ("bad", "good"),
}


def pulled(number: int, prompt: SoftPrompt | None = None, **fields: Any) -> PulledPrompt:
    """Return version ``number`` of sst2: ``prompt``, or one of its own that is ``number`` tokens long."""
    base = fields.pop("model", base_model())
    prompt = prompt or soft_prompt(number, seed=number, **SAME)
    known: dict[str, Any] = {
        "task": "sst2",
        "version": number,
        "base": base.fingerprint,
        "digest": Digest.of(str(number).encode()),
        "size": 1,
        "manifest": Digest.of(b"manifest"),
        "method": prompt.method,
        "task_type": prompt.task_type or TaskType.CAUSAL_LM,
        "placement": prompt.placement,
        "num_virtual_tokens": prompt.num_virtual_tokens,
        "token_dim": prompt.token_dim,
        "pushed_by": "ada",
        "pushed_at": NOW,
    }
    return PulledPrompt(version=PromptVersion(**(known | fields)), prompt=prompt, base=base)


class TestCombine:
    def test_an_ensemble_has_all_tensors_of_its_members_in_their_order(self) -> None:
        members = [pulled(3), pulled(1), pulled(2)]
        found = combine(members, vote=Vote.MEAN)
        check_layout(found)
        assert (found.method, found.vote) == (Method.ENSEMBLE, Vote.MEAN)
        assert found.members == ("sst2@3", "sst2@1", "sst2@2")
        assert found.num_virtual_tokens == 6
        assert dict(found.tensors) == {
            f"members.{index}.prompt_embeddings": member.prompt.tensors["prompt_embeddings"]
            for index, member in enumerate(members)
        }

    def test_what_the_members_say_alike_it_says_too(self) -> None:
        found = combine([pulled(1), pulled(2)], vote="majority")
        assert {name: getattr(found, name) for name in SAME} == SAME
        assert (found.token_dim, found.num_layers, found.placement) == (8, None, Placement.PREFIX)

    def test_prompt_tuning_and_p_tuning_vote_together(self) -> None:
        other = soft_prompt(2, method=Method.P_TUNING, **SAME)
        check_layout(combine([pulled(1), pulled(2, other)], vote="mean"))

    def test_trained_modules_come_with_their_member(self) -> None:
        rows = {"prompt_embeddings": tensor(2, 8), "modules_to_save.score.weight": tensor(2, 8)}
        found = combine([pulled(1), pulled(2, soft_prompt(2, tensors=rows, **SAME))], vote="mean")
        check_layout(found)
        assert found.tensors["members.1.modules_to_save.score.weight"] == tensor(2, 8)

    def test_task_embeddings_stay_with_their_versions(self) -> None:
        found = combine([pulled(1), pulled(2, tuned_prompt(2, **SAME))], vote="mean")
        check_layout(found)
        assert found.tensors.keys() == {
            "members.0.prompt_embeddings",
            "members.1.prompt_embeddings",
        }

    @pytest.mark.parametrize("numbers", [(), (1,)])
    def test_fewer_than_two_are_none(self, numbers: tuple[int, ...]) -> None:
        with pytest.raises(InvalidValueError, match="at least 2 members; name more"):
            combine([pulled(number) for number in numbers], vote="mean")

    def test_a_member_votes_once(self) -> None:
        with pytest.raises(InvalidValueError, match="'sst2@1': it stands there twice"):
            combine([pulled(1), pulled(2), pulled(1)], vote="mean")
        twin = pulled(2, digest=pulled(1).version.digest)
        with pytest.raises(InvalidValueError, match="'sst2@2': sst2@1 has the same tensors"):
            combine([pulled(1), twin], vote="mean")

    @pytest.mark.parametrize(
        "method", [Method.MULTITASK_PROMPT_TUNING, Method.CPT, Method.ENSEMBLE]
    )
    def test_other_methods_are_no_members(self, method: Method) -> None:
        with pytest.raises(InvalidValueError, match=f"'sst2@4': it is {method}, and members are"):
            combine([pulled(1), pulled(4, prompt_of(method, **SAME))], vote="mean")

    def test_what_was_withdrawn_is_no_member(self) -> None:
        yanked = pulled(2, yanked=Yanked(when=NOW, reason="leaked"))
        with pytest.raises(InvalidValueError, match=r"'sst2@2': it was yanked \(leaked\)"):
            combine([pulled(1), yanked], vote="mean")

    def test_a_vote_that_is_not_known_is_refused_with_those_that_are(self) -> None:
        with pytest.raises(InvalidValueError, match=r"'borda'.*choose from majority, mean"):
            combine([pulled(1), pulled(2)], vote="borda")

    @pytest.mark.parametrize(
        ("other", "reason"),
        [
            (lambda: pulled(2, model=base_model(9)), "the base model of sst2@2 is bfp1:"),
            (lambda: pulled(2, model=base_model(9, name="llama")), "of sst2@2 is llama, but"),
            (lambda: pulled(2, task="imdb"), "the task of imdb@2 is imdb, but that of sst2@1 is"),
            (
                lambda: pulled(2, changed(placement=Placement.AFTER_BOS)),
                "placement .* is after-bos",
            ),
            (lambda: pulled(4, prompt_of(Method.PREFIX_TUNING, **SAME)), "is key-values"),
            (lambda: pulled(2, changed(task_type=TaskType.SEQ_CLS)), "task type .* is SEQ_CLS"),
            (lambda: pulled(2, changed(template=None)), "the template of sst2@2 is None"),
            (lambda: pulled(2, changed(labels=("good", "bad"))), r"labels .* \('good', 'bad'\)"),
            (lambda: pulled(2, soft_prompt(2, 16, **SAME)), "token_dim of sst2@2 is 16"),
        ],
    )
    def test_members_that_differ_are_refused_with_both_sides(
        self, other: Callable[[], PulledPrompt], reason: str
    ) -> None:
        with pytest.raises(ConflictError, match=rf"{reason}.*name members that have it in common"):
            combine([pulled(1), other()], vote="mean")


def changed(**fields: Any) -> SoftPrompt:
    return replace(soft_prompt(2, **SAME), **fields)


class TestMembersOf:
    def test_they_are_what_was_combined(self) -> None:
        members = [pulled(2), pulled(3)]
        assert members_of(combine(members, vote="mean")) == tuple(m.prompt for m in members)

    def test_they_keep_their_order_where_there_are_many(self) -> None:
        members = [pulled(number) for number in range(12, 0, -1)]
        found = members_of(combine(members, vote="mean"))
        assert [prompt.num_virtual_tokens for prompt in found] == list(range(12, 0, -1))

    def test_keys_and_values_are_prefix_tuning_again(self) -> None:
        prefixes = [
            prompt_of(
                Method.PREFIX_TUNING,
                tensors={"prompt_embeddings": tensor(tokens, 3 * 2 * 8, seed=tokens)},
                num_virtual_tokens=tokens,
                **SAME,
            )
            for tokens in (2, 5)
        ]
        ensemble = combine([pulled(at, p) for at, p in enumerate(prefixes, 1)], vote="mean")
        check_layout(ensemble)
        assert members_of(ensemble) == tuple(prefixes)

    def test_each_has_its_own_trained_modules(self) -> None:
        prompts = [
            soft_prompt(
                tensors={
                    "prompt_embeddings": tensor(4, 8, seed=seed),
                    "modules_to_save.score.weight": tensor(2, 8, seed=seed),
                },
                **SAME,
            )
            for seed in (1, 2)
        ]
        ensemble = combine([pulled(at, p) for at, p in enumerate(prompts, 1)], vote="majority")
        assert members_of(ensemble) == tuple(prompts)

    @pytest.mark.parametrize("method", [Method.PROMPT_TUNING, Method.MULTITASK_PROMPT_TUNING])
    def test_another_prompt_has_none(self, method: Method) -> None:
        with pytest.raises(InvalidValueError, match="only an ensemble has members"):
            members_of(prompt_of(method))
