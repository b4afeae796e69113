"""Virtual tokens beside the vocabulary, as the base model sees both."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prompt_examples import prompt_of
from promptreg.artifacts.arrays import from_array
from promptreg.errors import IncompatibleModelError, InvalidValueError, UnreadableBaseModelError
from promptreg.prompts import Method, PulledPrompt, SoftPrompt
from promptreg.tuning import inspect_prompt
from registry.models.architectures import ARCHITECTURES, VOCAB_SIZE, make
from registry.models.peft_prompts import pull

IDS = torch.arange(VOCAB_SIZE)


def prompted(name: str, directory: Path, rows: torch.Tensor | None = None) -> PulledPrompt:
    """Return a prompt for the tiny model ``name``, which is saved to ``directory``."""
    model = make(name)
    model.save_pretrained(directory)
    if rows is None:
        rows = words_of(model)[[3, 9, 5]] * torch.tensor([[1.0], [2.0], [-0.5]])
    return pull(model, prompt_of_rows(rows))


def prompt_of_rows(rows: torch.Tensor) -> SoftPrompt:
    array = rows.detach().float().numpy()
    return SoftPrompt(
        method=Method.PROMPT_TUNING,
        tensors={"prompt_embeddings": from_array(array)},
        num_virtual_tokens=array.shape[0],
        token_dim=array.shape[1],
    )


def words_of(model: Any) -> torch.Tensor:
    words: torch.Tensor = model.get_input_embeddings()(IDS)
    return words.detach().float()


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_a_virtual_token_that_is_a_word_is_read_as_that_word(name: str, tmp_path: Path) -> None:
    found = inspect_prompt(prompted(name, tmp_path), tmp_path, nearest=2)
    first, second, third = found.tokens
    assert (first.nearest[0].id, second.nearest[0].id) == (3, 9)
    assert first.nearest[0].cosine == pytest.approx(1)
    assert first.nearest[0].distance == pytest.approx(0, abs=1e-6)
    assert second.nearest[0].distance == pytest.approx(second.norm / 2, rel=1e-5)
    assert third.nearest[0].id != 5
    assert [token.index for token in found.tokens] == [0, 1, 2]
    assert found.vocabulary == VOCAB_SIZE


def test_norms_stand_beside_those_of_the_vocabulary(tmp_path: Path) -> None:
    words = words_of(make("gemma3"))
    norms = words.norm(dim=1)
    longest, zero = words[norms.argmax()] * 2, words[:1] * 0
    pulled = prompted("gemma3", tmp_path, torch.cat([longest[None], zero]))
    found = inspect_prompt(pulled, tmp_path)
    assert [token.percentile for token in found.tokens] == [100, 0]
    assert found.tokens[0].norm == pytest.approx(2 * float(norms.max()), rel=1e-5)
    assert [near.cosine for near in found.tokens[1].nearest] == [0] * 5
    low, middle, high = found.norms
    assert norms.min() <= low <= middle <= high <= norms.max()
    assert middle == pytest.approx(float(norms.median()), rel=1e-5)


def test_how_many_are_near_to_nothing_is_counted(tmp_path: Path) -> None:
    found = inspect_prompt(prompted("llama", tmp_path), tmp_path)
    assert found.by_chance == pytest.approx(
        math.sqrt(2 * math.log(VOCAB_SIZE) / make("llama").config.hidden_size)
    )
    far = replace(found, closest=(found.by_chance + 0.01, found.by_chance - 0.01, -1.0))
    assert far.far == 2


def test_more_than_the_vocabulary_is_all_of_it(tmp_path: Path) -> None:
    found = inspect_prompt(prompted("llama", tmp_path), tmp_path, nearest=100)
    assert {len(token.nearest) for token in found.tokens} == {min(100, VOCAB_SIZE)}


def test_without_a_tokenizer_tokens_are_numbers_and_that_is_said(tmp_path: Path) -> None:
    found = inspect_prompt(prompted("llama", tmp_path), tmp_path, nearest=1)
    assert found.tokens[0].nearest[0].text == "<3>"
    assert found.notes == (
        "there is no tokenizer beside the base model: tokens are shown by number",
    )


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (Method.PREFIX_TUNING, "it is keys and values of every layer"),
        (Method.MULTITASK_PROMPT_TUNING, "made anew for each of its tasks"),
        (Method.ENSEMBLE, "an ensemble of several prompts; inspect sst2@3, sst2@5"),
    ],
)
def test_what_has_no_virtual_tokens_of_its_own_is_refused(
    tmp_path: Path, method: Method, reason: str
) -> None:
    pulled = pull(make("llama"), prompt_of(method))
    with pytest.raises(InvalidValueError, match=reason):
        inspect_prompt(pulled, tmp_path)


def test_a_trained_head_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    pulled = prompted("llama", tmp_path)
    tensors = dict(pulled.prompt.tensors)
    tensors["modules_to_save.score.weight"] = tensors["prompt_embeddings"]
    headed = replace(pulled, prompt=replace(pulled.prompt, tensors=tensors))
    found = inspect_prompt(headed, tmp_path)
    assert found.notes[0].startswith("its trained head (score.weight) is not shown")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nearest": 0}, "1 to 100 tokens are shown"),
        ({"nearest": 101}, "1 to 100 tokens are shown"),
        ({"measure": "manhattan"}, "choose from cosine, euclidean"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidValueError, match=reason):
        inspect_prompt(prompted("llama", tmp_path), tmp_path, **changes)


def test_other_weights_are_refused_and_named(tmp_path: Path) -> None:
    pulled = prompted("llama", tmp_path / "own")
    other: Any = make("llama")
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight.add_(0.01)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(IncompatibleModelError, match=r"same-embedding.*down_proj"):
        inspect_prompt(pulled, tmp_path / "other")


def test_a_directory_without_a_base_model_is_refused(tmp_path: Path) -> None:
    pulled = prompted("llama", tmp_path / "own")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableBaseModelError):
        inspect_prompt(pulled, tmp_path / "empty")
