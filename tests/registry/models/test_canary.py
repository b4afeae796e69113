"""A canary knows an honest rounding of its base model from another base model."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

import promptreg
from promptreg.canaries import Canary, CanaryOutcome
from promptreg.errors import CanaryError, ConfigurationError
from promptreg.models.rounding import EIGHT_BITS, FOUR_BITS, rounded_view
from promptreg.prompts import SoftPrompt
from registry.models.architectures import ARCHITECTURES, VOCAB_SIZE, make
from registry.models.peft_prompts import pair_of, pull

NAMES = sorted(ARCHITECTURES)
LAYERS = {
    "gpt2": "transformer.h.1.",
    "opt": "model.decoder.layers.1.",
    "t5": "encoder.block.1.",
}


class Words:
    """A tokenizer for words that are numbers."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}


def eight_bits(base: PreTrainedModel) -> PreTrainedModel:
    """Round each row of each linear layer to 255 levels."""
    rounded = copy.deepcopy(base)
    with torch.no_grad():
        for module in rounded.modules():
            if isinstance(module, nn.Linear):
                step = module.weight.abs().amax(dim=1, keepdim=True) / 127
                module.weight.copy_((module.weight / step).round() * step)
    return rounded


def perturbed(base: PreTrainedModel) -> PreTrainedModel:
    """Add noise to one layer, as large as its weights."""
    changed = copy.deepcopy(base)
    prefix = LAYERS.get(base.config.model_type, "model.layers.1.")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            if name.startswith(prefix):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(parameter.std() * noise)
    return changed


@pytest.mark.parametrize("method", ["PROMPT_TUNING", "PREFIX_TUNING"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_base_model_gives_the_same_outputs(name: str, method: str) -> None:
    pair = pair_of(name, method)
    canary = promptreg.record_canary(pair.base, pair.prompt)
    outcome = promptreg.replay_canary(pair.base, pair.prompt, canary)
    assert outcome.passed
    assert outcome.deviation == 0
    assert (outcome.inputs, outcome.tolerance) == (4, canary.tolerance)


@pytest.mark.parametrize("change", [eight_bits, lambda base: copy.deepcopy(base).bfloat16()])
@pytest.mark.parametrize("name", NAMES)
def test_an_honest_rounding_passes(
    name: str, change: Callable[[PreTrainedModel], PreTrainedModel]
) -> None:
    pair = pair_of(name, "PROMPT_TUNING")
    canary = promptreg.record_canary(pair.base, pair.prompt)
    assert promptreg.replay_canary(change(pair.base), pair.prompt, canary).passed


# The tiny BERT reads its class off a virtual token, which one of its layers hardly moves.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "bert"])
def test_one_wrong_layer_does_not_pass(name: str) -> None:
    pair = pair_of(name, "PROMPT_TUNING")
    canary = promptreg.record_canary(pair.base, pair.prompt)
    assert not promptreg.replay_canary(perturbed(pair.base), pair.prompt, canary).passed


@pytest.mark.parametrize("name", NAMES)
def test_another_base_model_does_not_pass(name: str) -> None:
    pair = pair_of(name, "PROMPT_TUNING")
    canary = promptreg.record_canary(pair.base, pair.prompt)
    assert not promptreg.replay_canary(make(name, seed=1), pair.prompt, canary).passed


@pytest.mark.parametrize("name", ["llama", "t5", "bert"])
def test_another_prompt_does_not_pass(name: str) -> None:
    pair = pair_of(name, "PROMPT_TUNING")
    canary = promptreg.record_canary(pair.base, pair.prompt)
    other = pair_of(name, "P_TUNING").prompt
    assert not promptreg.replay_canary(pair.base, other, canary).passed


def test_a_canary_is_the_same_whenever_it_is_recorded() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    first, second = (promptreg.record_canary(pair.base, pair.prompt) for _ in range(2))
    assert first == second
    assert Canary.from_bytes(first.to_bytes()) == first
    assert first.dtype == "float32"
    assert {len(row) for row in first.input_ids} == {12}
    assert {row[0] for row in first.input_ids} == {pair.base.config.bos_token_id}
    assert {len(row) for row in first.positions} == {64}


def test_recording_leaves_the_base_model_as_it_was() -> None:
    pair = pair_of("mixtral", "PROMPT_TUNING")
    base = copy.deepcopy(pair.base).train()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in base.modules()]
    promptreg.record_canary(base, pair.prompt)
    assert all(tensor.equal(before[name]) for name, tensor in base.state_dict().items())
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert all(module.training for module in base.modules())
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in base.modules()]


@pytest.mark.parametrize("rounding", [FOUR_BITS, EIGHT_BITS])
@pytest.mark.parametrize("name", NAMES)
def test_a_rounded_view_gives_other_outputs_and_changes_no_weight(name: str, rounding: Any) -> None:
    base = pair_of(name, "PROMPT_TUNING").base
    view = rounded_view(base, rounding)
    assert view is not None
    ids = torch.tensor([[3, 4, 5, 6]])
    arguments = {"decoder_input_ids": ids} if base.config.is_encoder_decoder else {}
    with torch.no_grad():
        plain, rounded = (model(ids, **arguments).logits for model in (base, view))
        assert base(ids, **arguments).logits.equal(plain)
    assert not rounded.equal(plain)
    assert [id(p) for p in view.parameters()] == [id(p) for p in base.parameters()]


def test_texts_are_read_by_the_tokenizer_through_the_template() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    prompt = SoftPrompt(
        **{name: getattr(pair.prompt, name) for name in ("method", "tensors", "token_dim")},
        num_virtual_tokens=pair.prompt.num_virtual_tokens,
        template="7 {text} 8",
    )
    tokenizer: Any = Words()
    texts = ["10 11 12", "13"]
    canary = promptreg.record_canary(pair.base, prompt, tokenizer=tokenizer, texts=texts)
    assert canary.input_ids == ((7, 10, 11, 12, 8), (7, 13, 8))
    assert promptreg.replay_canary(pair.base, prompt, canary).passed
    with pytest.raises(ConfigurationError, match="pass tokenizer="):
        promptreg.record_canary(pair.base, prompt, texts=texts)
    with pytest.raises(ConfigurationError, match="no text has any tokens"):
        promptreg.record_canary(pair.base, pair.prompt, tokenizer=tokenizer, texts=[""])


def test_a_smaller_vocabulary_does_not_pass() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    smaller = pair_of("llama", "PROMPT_TUNING", vocab_size=40)
    canary = promptreg.record_canary(pair.base, pair.prompt)
    assert max(map(max, canary.input_ids)) < VOCAB_SIZE
    outcome = promptreg.replay_canary(smaller.base, pair.prompt, canary)
    assert not outcome.passed
    assert "did not come back" in str(outcome)


def test_outputs_that_are_not_finite_are_neither_recorded_nor_right() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    broken: Any = copy.deepcopy(pair.base)
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    with pytest.raises(CanaryError, match="its outputs are not finite"):
        promptreg.record_canary(broken, pair.prompt)
    canary = promptreg.record_canary(pair.base, pair.prompt)
    assert promptreg.replay_canary(broken, pair.prompt, canary).deviation == float("inf")


def test_a_multitask_prompt_is_known_by_its_first_task() -> None:
    pair = pair_of("llama", "MULTITASK_PROMPT_TUNING")
    canary = promptreg.record_canary(pair.base, pair.prompt)
    assert promptreg.replay_canary(pair.base, pair.prompt, canary).passed
    pulled = pull(pair.base, pair.prompt, canary)
    with promptreg.attach(pair.base, pulled, policy="canary", task_id=2) as prompted:
        assert prompted.report.canary is not None


def test_a_pulled_prompt_brings_its_canary() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    canary = promptreg.record_canary(pair.base, pair.prompt)
    assert promptreg.replay_canary(pair.base, pull(pair.base, pair.prompt, canary)).passed
    with pytest.raises(CanaryError, match="the canary of sst2@3 failed: none was recorded"):
        promptreg.replay_canary(pair.base, pull(pair.base, pair.prompt))


GOOD: dict[str, Any] = {
    "input_ids": ((1, 2), (3,)),
    "positions": ((0, 1), (4, 5)),
    "outputs": ((0.5, 0.25), (1.0, -1.0)),
    "dtype": "float32",
    "tolerance": 0.25,
}
INFINITE = float("inf")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("tolerance", INFINITE, "tolerance is inf: it must be above 0 and at most 0.5"),
        ("tolerance", 1e9, "tolerance is"),
        ("tolerance", 0.0, "tolerance is"),
        ("tolerance", -0.1, "tolerance is"),
        ("tolerance", float("nan"), "tolerance is nan"),
        ("tolerance", "0.1", "tolerance is '0.1'"),
        ("input_ids", (), "input_ids have no rows"),
        ("input_ids", ((), (3,)), "input_ids have an empty row"),
        ("input_ids", ((1, 2), (-1,)), "input_ids hold -1: they must be whole numbers"),
        ("input_ids", ((1, 2), (2**63,)), "input_ids hold"),
        ("input_ids", ((1, 2), (True,)), "input_ids hold True"),
        ("input_ids", ((1, 2), (1.5,)), "input_ids hold 1.5"),
        ("input_ids", ((1, 2),), r"different numbers of rows, \[1, 2\]"),
        ("positions", ((0, 1), (4, -1)), "positions hold -1"),
        ("positions", ((0, 1), (4,)), "different numbers of outputs in each row"),
        ("positions", ((0,), (4,)), "different numbers of outputs in each row"),
        ("outputs", ((0.5, 0.25),), "different numbers of rows"),
        ("outputs", ((0.5, 0.25), (1.0, INFINITE)), "outputs hold inf: they must be finite"),
        ("outputs", ((0.5, 0.25), (1.0, float("nan"))), "outputs hold nan"),
        ("outputs", ((0.5, 0.25), (1.0, 1e39)), "outputs hold"),
        ("dtype", "", "dtype is ''"),
        ("dtype", 7, "dtype is 7"),
    ],
)
def test_a_canary_that_any_model_or_none_would_pass_is_refused(
    field: str, value: Any, words: str
) -> None:
    assert Canary.from_bytes(Canary(**GOOD).to_bytes()) == Canary(**GOOD)
    with pytest.raises(ValueError, match=words):
        Canary(**GOOD | {field: value})
    stored = json.dumps({"format": "promptreg.canary/1"} | GOOD | {field: value}).encode()
    with pytest.raises(ValueError, match=words):
        Canary.from_bytes(stored)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"format":"promptreg.canary/1"}',
        *(
            json.dumps({"format": "promptreg.canary/1"} | GOOD | {field: value}).encode()
            for field in ("input_ids", "positions", "outputs")
            for value in (None, 5, "ab", {"a": 1}, [1], [[None]], [["1"]], [[[1]]])
        ),
    ],
)
def test_bytes_that_are_no_canary_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (the words differ, and json has its own)
        Canary.from_bytes(data)


def test_an_outcome_says_how_far_off_it_is() -> None:
    good = CanaryOutcome(deviation=0.01, tolerance=0.05, inputs=4)
    assert str(good) == "the recorded outputs of 4 inputs came back (off by 0.01, tolerated 0.05)"
    assert not CanaryOutcome(deviation=float("nan"), tolerance=0.05, inputs=4).passed
