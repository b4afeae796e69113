"""Where a prompt starts is what its recipe says, as the base model sees tokens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from promptreg.errors import TuningError
from promptreg.models.anatomy import Anatomy, examine
from promptreg.tuning import Recipe
from promptreg.tuning.initialising import embedding_size, initial_embeddings
from registry.models.architectures import make
from small_bases import Kind

TEXTS = ((13, 14, 15), (14, 15), (15, 16))


@pytest.fixture
def model(bases: dict[Kind, Path]) -> Any:
    return AutoModelForCausalLM.from_pretrained(bases["decoder"])


@pytest.fixture
def tokenizer(bases: dict[Kind, Path]) -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(bases["decoder"])
    return found


def start(recipe: Recipe, anatomy: Anatomy, tokenizer: Any, labels: tuple[str, ...] = ()) -> Any:
    return initial_embeddings(recipe, anatomy, tokenizer, labels=labels, texts=TEXTS)


def rows(model: Any) -> set[tuple[float, ...]]:
    return {tuple(row) for row in model.get_input_embeddings().weight.tolist()}


def test_vocabulary_is_drawn_from_the_texts(model: Any, tokenizer: Any) -> None:
    found = start(Recipe(init="vocab", num_virtual_tokens=4), examine(model), tokenizer)
    weight = model.get_input_embeddings().weight
    assert {tuple(row) for row in found.tolist()} == {
        tuple(weight[at].tolist()) for at in range(13, 17)
    }
    again = start(Recipe(init="vocab", num_virtual_tokens=4), examine(model), tokenizer)
    other = start(Recipe(init="vocab", num_virtual_tokens=4, seed=1), examine(model), tokenizer)
    assert torch.equal(found, again)
    assert not torch.equal(found, other)


def test_labels_come_first_and_vocabulary_fills_up(model: Any, tokenizer: Any) -> None:
    anatomy = examine(model)
    recipe = Recipe(init="labels", num_virtual_tokens=5)
    found = start(recipe, anatomy, tokenizer, ("low", "high w1"))
    weight = model.get_input_embeddings().weight
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("low", "high w1")]
    assert torch.equal(found[0], weight[ids[0][0]])
    torch.testing.assert_close(found[1], weight[ids[1]].mean(dim=0))
    assert {tuple(row) for row in found[2:].tolist()} <= rows(model)
    auto = start(replace(recipe, init="auto"), anatomy, tokenizer, ("low", "high w1"))
    assert torch.equal(auto, found)


def test_a_text_is_repeated_to_the_length(model: Any, tokenizer: Any) -> None:
    found = start(Recipe(init="text:w1 w2", num_virtual_tokens=5), examine(model), tokenizer)
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    assert torch.equal(found[0], found[4])
    assert not torch.equal(found[0], found[1])


def test_random_numbers_are_as_large_as_the_vocabulary(model: Any, tokenizer: Any) -> None:
    anatomy = examine(model)
    found = start(Recipe(init="random", num_virtual_tokens=200), anatomy, tokenizer)
    assert float(found.square().mean().sqrt()) == pytest.approx(embedding_size(anatomy), rel=0.05)


def test_a_model_that_scales_its_embeddings_gives_them_scaled() -> None:
    model: Any = make("gemma3")
    anatomy = examine(model)
    weight = model.get_input_embeddings().weight.detach()
    assert embedding_size(anatomy) == pytest.approx(
        float(weight.square().mean().sqrt()) * model.config.hidden_size**0.5, rel=0.05
    )


def test_there_must_be_something_to_start_from(model: Any, tokenizer: Any) -> None:
    anatomy = examine(model)
    with pytest.raises(TuningError, match="no labels to start from"):
        start(Recipe(init="labels"), anatomy, tokenizer)
    with pytest.raises(TuningError, match="was not given"):
        start(Recipe(init="prompt:sst2@1"), anatomy, tokenizer)
