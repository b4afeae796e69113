from dataclasses import replace
from typing import Any

import pytest

from prompt_examples import PEFT_METHODS, prompt_of, soft_prompt, tensor, tuned_prompt
from promptreg.layouts import check_layout, trained_modules, without_task_embedding
from promptreg.prompts import Method, Placement, SoftPrompt, Tensor, Vote

MULTITASK = prompt_of(Method.MULTITASK_PROMPT_TUNING)
PREFIX = prompt_of(Method.PREFIX_TUNING)
ENSEMBLE = prompt_of(Method.ENSEMBLE)


def with_tensors(prompt: SoftPrompt, **tensors: Any) -> SoftPrompt:
    kept = {name: each for name, each in (dict(prompt.tensors) | tensors).items() if each}
    return replace(prompt, tensors=kept)


def member(index: int, rows: Tensor | None) -> SoftPrompt:
    return with_tensors(ENSEMBLE, **{f"members.{index}.prompt_embeddings": rows})


@pytest.mark.parametrize("method", Method)
def test_the_tensors_that_a_method_needs_are_enough(method: Method) -> None:
    check_layout(prompt_of(method))


@pytest.mark.parametrize("method", PEFT_METHODS)
def test_trained_modules_may_stand_beside_them(method: Method) -> None:
    name = "modules_to_save.base_model.score.weight"
    prompt = with_tensors(prompt_of(method), **{name: tensor(2, 3, 4)})
    check_layout(prompt)
    assert trained_modules(prompt) == (name,)


@pytest.mark.parametrize("placement", [Placement.PREFIX, Placement.AFTER_BOS])
def test_a_prompt_of_prompt_tuning_may_have_a_task_embedding(placement: Placement) -> None:
    check_layout(tuned_prompt(placement=placement))
    narrow = tensor(4, 8, dtype="BF16")
    check_layout(with_tensors(tuned_prompt(), task_embedding=narrow))


@pytest.mark.parametrize("method", sorted(set(Method) - {Method.PROMPT_TUNING}))
def test_no_prompt_of_another_method_has_a_task_embedding(method: Method) -> None:
    with pytest.raises(ValueError, match=f"'task_embedding', which {method} has no place for"):
        check_layout(with_tensors(prompt_of(method), task_embedding=tensor(4, 8)))


def test_a_task_embedding_is_a_copy_and_no_part_of_what_was_trained() -> None:
    assert tuned_prompt().parameters == soft_prompt().parameters == 32
    assert without_task_embedding(tuned_prompt()) == soft_prompt()
    assert without_task_embedding(soft_prompt()) == soft_prompt()


def test_trained_modules_may_stand_beside_each_member_of_an_ensemble() -> None:
    name = "members.1.modules_to_save.score.weight"
    prompt = with_tensors(ENSEMBLE, **{name: tensor(2, 8)})
    check_layout(prompt)
    assert trained_modules(prompt) == (name,)
    for wrong in ("modules_to_save.score.weight", "members.2.modules_to_save.score.weight"):
        with pytest.raises(ValueError, match=f"{wrong}', which ensemble has no place for"):
            check_layout(with_tensors(ENSEMBLE, **{wrong: tensor(2, 8)}))


def test_the_members_of_an_ensemble_may_be_keys_and_values() -> None:
    tensors = {
        "members.0.prompt_embeddings": tensor(3, 3 * 2 * 8),
        "members.1.prompt_embeddings": tensor(1, 3 * 2 * 8),
    }
    prompt = replace(ENSEMBLE, tensors=tensors, placement=Placement.KEY_VALUES, num_layers=3)
    check_layout(prompt)
    with pytest.raises(ValueError, match="num_layers is None"):
        check_layout(replace(prompt, num_layers=None))
    with pytest.raises(ValueError, match=r"\[3, 32\] was expected"):
        check_layout(replace(prompt, num_layers=2))


def test_a_multitask_prompt_may_have_a_decoders_half() -> None:
    halves = {
        "decoder_prompt_embeddings": tensor(4, 8),
        "decoder_prefix_task_cols": tensor(2, 4, 1),
    }
    check_layout(with_tensors(MULTITASK, **halves))
    for name in halves:
        with pytest.raises(ValueError, match=f"lacks the tensor '{name}'"):
            check_layout(with_tensors(MULTITASK, **(halves | {name: None})))
    narrow = halves | {"decoder_prompt_embeddings": tensor(4, 8, dtype="F16")}
    with pytest.raises(ValueError, match="is F32 and its decoder's half F16"):
        check_layout(with_tensors(MULTITASK, **narrow))


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (with_tensors(soft_prompt(), prompt_embeddings=tensor(5, 8)), r"\[4, 8\] was expected"),
        (with_tensors(soft_prompt(), prompt_embeddings=tensor(4, 9)), r"\[4, 8\] was expected"),
        (with_tensors(soft_prompt(), prompt_embeddings=tensor(4, 8, 1)), "was expected"),
        (with_tensors(soft_prompt(), prompt_embeddings=None), "lacks the tensor"),
        (with_tensors(soft_prompt(), more=tensor(1)), "has no place for"),
        (with_tensors(soft_prompt(), decoder_prompt_embeddings=tensor(4, 8)), "has no place for"),
        (with_tensors(tuned_prompt(), task_embedding=tensor(3, 8)), r"\[4, 8\] was expected"),
        (replace(soft_prompt(), num_virtual_tokens=0), "num_virtual_tokens is 0"),
        (replace(soft_prompt(), token_dim=-1), "token_dim is -1"),
        (replace(PREFIX, num_layers=None), "num_layers is None"),
        (replace(PREFIX, num_layers=0), "num_layers is 0"),
        (replace(PREFIX, num_layers=2), r"\[4, 32\] was expected"),
        (with_tensors(MULTITASK, prefix_task_rows=None), "lacks the tensor 'prefix_task_rows'"),
        (with_tensors(MULTITASK, prefix_task_cols=None), "lacks the tensor 'prefix_task_cols'"),
        (with_tensors(MULTITASK, prefix_task_rows=tensor(2, 8)), r"\[tasks, rank, width\]"),
        (with_tensors(MULTITASK, prefix_task_rows=tensor(3, 1, 8)), r"\[3, 4, 1\] was expected"),
        (with_tensors(MULTITASK, prefix_task_cols=tensor(2, 4, 2)), r"\[2, 4, 1\] was expected"),
        (replace(soft_prompt(), members=("a@1", "a@2")), "only an ensemble has members"),
        (replace(soft_prompt(), vote=Vote.MEAN), "only an ensemble has members"),
        (replace(ENSEMBLE, vote=None), "lacks the vote"),
        (replace(ENSEMBLE, members=()), "at least 2 were expected, each once"),
        (replace(ENSEMBLE, members=("sst2@3",)), "at least 2 were expected, each once"),
        (replace(ENSEMBLE, members=("sst2@3", "sst2@3")), "at least 2 were expected, each once"),
        (replace(ENSEMBLE, members=("sst2@3", "sst2@prod")), "'sst2@prod' is not pinned"),
        (replace(ENSEMBLE, members=("sst2@3", "sst2")), "'sst2' is not pinned"),
        (replace(ENSEMBLE, members=("sst2@3", "../sst2@5")), "is no task name"),
        (replace(ENSEMBLE, members=("a@1", "a@2", "a@3")), r"lacks the tensor 'members\.2\."),
        (replace(ENSEMBLE, num_virtual_tokens=5), "is 5, and its members have 4"),
        (replace(ENSEMBLE, token_dim=7), r"\[3, 7\] was expected"),
        (member(0, tensor(8)), r"\[8, 8\] was expected"),
        (member(1, tensor(0, 8)), r"\[1, 8\] was expected"),
        (member(1, None), r"lacks the tensor 'members\.1\.prompt_embeddings'"),
        (
            member(2, tensor(4, 8)),
            r"a tensor 'members\.2\.prompt_embeddings', which ensemble has no",
        ),
        (with_tensors(ENSEMBLE, prompt_embeddings=tensor(4, 8)), "which ensemble has no place for"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides(prompt: SoftPrompt, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_layout(prompt)
