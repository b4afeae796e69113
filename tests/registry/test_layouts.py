from dataclasses import replace
from typing import Any

import pytest

from prompt_examples import prompt_of, soft_prompt, tensor
from promptreg.layouts import check_layout, trained_modules
from promptreg.prompts import Method, SoftPrompt

MULTITASK = prompt_of(Method.MULTITASK_PROMPT_TUNING)
PREFIX = prompt_of(Method.PREFIX_TUNING)


def with_tensors(prompt: SoftPrompt, **tensors: Any) -> SoftPrompt:
    kept = {name: each for name, each in (dict(prompt.tensors) | tensors).items() if each}
    return replace(prompt, tensors=kept)


@pytest.mark.parametrize("method", Method)
def test_the_tensors_that_a_method_needs_are_enough(method: Method) -> None:
    check_layout(prompt_of(method))


@pytest.mark.parametrize("method", Method)
def test_trained_modules_may_stand_beside_them(method: Method) -> None:
    name = "modules_to_save.base_model.score.weight"
    prompt = with_tensors(prompt_of(method), **{name: tensor(2, 3, 4)})
    check_layout(prompt)
    assert trained_modules(prompt) == (name,)


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
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides(prompt: SoftPrompt, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_layout(prompt)
