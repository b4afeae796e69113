"""A real prompt on a real base model in this process, through the library alone."""

from pathlib import Path
from typing import Any

import pytest

import promptreg
from promptreg import PulledPrompt, Registry, artifacts
from promptreg.errors import IncompatibleModelError
from real.bbc import TEMPLATE, TOPICS, as_input
from real.gemma import PERTURBED
from real.training import Trained

pytestmark = pytest.mark.real

_SOME = slice(0, None, 20)  # articles of all topics, of several lengths


@pytest.fixture(scope="module")
def pulled(trained: Trained, base: Path, tmp_path_factory: pytest.TempPathFactory) -> PulledPrompt:
    """The trained prompt, pushed and pulled."""
    folder = tmp_path_factory.mktemp("registry")
    database = f"sqlite:///{folder / 'promptreg.db'}"
    Registry.upgrade(database)
    with Registry.open(database, str(folder / "objects")) as registry:
        pushed = registry.push(
            artifacts.read(trained.directory),
            task="bbc/topic",
            base=promptreg.from_files(base),
            template=TEMPLATE,
            labels=TOPICS,
        )
        return registry.pull(pushed.version.ref)


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    """The base model, stored as bf16, loaded as float32: the same base model."""
    return _load(base)


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    """The base model's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="module")
def left_padded(trained: Trained, tokenizer: Any) -> Any:
    """Some of the inputs, padded in front."""
    inputs = [as_input(article.text) for article in trained.articles[_SOME]]
    encoded = tokenizer(inputs, padding=True, padding_side="left", return_tensors="pt")
    assert not encoded.attention_mask.all(), "the rows should differ in length"
    return encoded


def test_padding_in_front_changes_no_answer(
    model: Any, pulled: PulledPrompt, trained: Trained, left_padded: Any
) -> None:
    # PEFT puts the prompt before the padding, where it does not belong.
    from torch import no_grad
    from torch.testing import assert_close

    with promptreg.attach(model, pulled) as prompted, no_grad():
        logits = prompted(**left_padded, logits_to_keep=1).logits[:, -1]
    assert_close(logits, trained.logits[_SOME], rtol=1e-4, atol=1e-4)


def test_generate_writes_the_answer_behind_the_text(
    model: Any, pulled: PulledPrompt, trained: Trained, left_padded: Any
) -> None:
    with promptreg.attach(model, pulled) as prompted:
        ids = prompted.generate(**left_padded, max_new_tokens=1, do_sample=False)
    assert ids[:, :-1].equal(left_padded.input_ids)
    assert ids[:, -1].equal(trained.logits[_SOME].argmax(dim=1))


def test_detach_leaves_the_base_as_it_was(model: Any, pulled: PulledPrompt, base: Path) -> None:
    promptreg.attach(model, pulled).detach()
    fingerprint = promptreg.from_module(model).fingerprint
    assert fingerprint == promptreg.from_files(base).fingerprint


def test_attach_refuses_a_base_with_one_layer_perturbed(
    pulled: PulledPrompt, wrong_base: Path
) -> None:
    wrong = _load(wrong_base)
    with pytest.raises(IncompatibleModelError) as refusal:
        promptreg.attach(wrong, pulled)
    assert refusal.value.verdict == "same-embedding"
    assert refusal.value.differing == (PERTURBED,)


def _load(directory: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
