"""A prompted model gives what PEFT gives, wherever PEFT is right."""

from typing import Any

import pytest
import torch

import promptreg
from promptreg import PromptedModel
from promptreg.prompts import Method
from registry.models.architectures import ARCHITECTURES, VOCAB_SIZE
from registry.models.peft_prompts import TOKENS, Pair, left_padded, pair_of, right_padded

pytestmark = [
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

METHODS = ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT"]
CAUSAL = sorted(name for name, a in ARCHITECTURES.items() if a.kind == "causal")
MATRIX = [(name, method) for name in CAUSAL for method in METHODS]
TASK = 1


def attached(pair: Pair) -> PromptedModel:
    multitask = pair.prompt.method is Method.MULTITASK_PROMPT_TUNING
    task_id = TASK if multitask else None
    return promptreg.attach(pair.base, pair.prompt, policy="unchecked", task_id=task_id)


def ask_peft(pair: Pair, **batch: Any) -> Any:
    if pair.prompt.method is Method.MULTITASK_PROMPT_TUNING:
        batch["task_ids"] = torch.full((len(batch["input_ids"]),), TASK)
    with torch.no_grad():
        return pair.peft_model(**batch)


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare float32 outputs: within 1e-5 of the largest."""
    assert actual.shape == expected.shape
    bound = 1e-5 * float(expected.abs().max())
    assert float((actual - expected).abs().max()) <= bound


@pytest.mark.parametrize(("name", "method"), MATRIX)
def test_a_decoders_logits_are_pefts(name: str, method: str) -> None:
    pair = pair_of(name, method)
    batch = right_padded()
    with attached(pair) as prompted:
        logits = prompted(**batch).logits
    expected = ask_peft(pair, **batch).logits
    # PEFT gives the virtual tokens' logits too, except where they are keys and values.
    assert_same(logits, expected[:, expected.shape[1] - logits.shape[1] :])


@pytest.mark.parametrize("method", METHODS[:3])
@pytest.mark.parametrize("name", CAUSAL)
def test_a_decoders_loss_is_pefts(name: str, method: str) -> None:
    pair = pair_of(name, method)
    batch = right_padded()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with attached(pair) as prompted:
        output = prompted(**batch, labels=labels)
    assert_same(output.loss, ask_peft(pair, **batch, labels=labels).loss)
    assert output.logits.shape == (3, 9, VOCAB_SIZE)


@pytest.mark.parametrize("method", METHODS[:3])
@pytest.mark.parametrize("name", CAUSAL)
def test_a_decoder_generates_what_it_generates_in_peft(name: str, method: str) -> None:
    pair = pair_of(name, method)
    ids = right_padded(7, 7)["input_ids"]
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
    expected = pair.peft_model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), **settings
    )
    with attached(pair) as prompted:
        assert prompted.generate(ids, attention_mask=torch.ones_like(ids), **settings).equal(
            expected
        )


@pytest.mark.parametrize("method", METHODS[:3])
def test_an_encoder_decoders_output_is_pefts(method: str) -> None:
    pair = pair_of("t5", method)
    batch = right_padded()
    batch["labels"] = right_padded(4, 4, 4, seed=1)["input_ids"]
    with attached(pair) as prompted:
        output = prompted(**batch)
    expected = ask_peft(pair, **batch)
    assert_same(output.logits, expected.logits)
    assert_same(output.loss, expected.loss)


@pytest.mark.parametrize("method", METHODS[:4])
def test_an_encoder_decoder_generates_what_it_generates_in_peft(method: str) -> None:
    pair = pair_of("t5", method)
    batch = right_padded()
    tasks = {"task_ids": torch.full((3,), TASK)} if method == METHODS[3] else {}
    expected = pair.peft_model.generate(**batch, **tasks, max_new_tokens=12)
    with attached(pair) as prompted:
        assert prompted.generate(**batch, max_new_tokens=12).equal(expected)


@pytest.mark.parametrize("method", METHODS[:4])
def test_an_encoders_classification_is_pefts(method: str) -> None:
    pair = pair_of("bert", method)
    batch = right_padded()
    batch["token_type_ids"] = (torch.arange(9) > 4).long().expand(3, -1) * batch["attention_mask"]
    batch["labels"] = torch.tensor([0, 2, 1])
    with attached(pair) as prompted:
        output = prompted(**batch)
    expected = ask_peft(pair, **batch)
    assert_same(output.logits, expected.logits)
    assert_same(output.loss, expected.loss)


@pytest.mark.parametrize("method", METHODS[:3])
def test_token_classification_is_pefts(method: str) -> None:
    pair = pair_of("bert", method, "TOKEN_CLS", "BertForTokenClassification")
    batch = right_padded()
    with attached(pair) as prompted:
        logits = prompted(**batch).logits
    expected = ask_peft(pair, **batch).logits
    assert_same(logits, expected[:, expected.shape[1] - logits.shape[1] :])


@pytest.mark.parametrize("method", METHODS[:3])
def test_question_answering_is_pefts(method: str) -> None:
    pair = pair_of("bert", method, "QUESTION_ANS", "BertForQuestionAnswering", num_labels=2)
    batch = right_padded()
    with attached(pair) as prompted:
        output = prompted(**batch)
    expected = ask_peft(pair, **batch)
    for name in ("start_logits", "end_logits"):
        assert_same(output[name], expected[name][:, expected[name].shape[1] - 9 :])


@pytest.mark.parametrize("method", ["PROMPT_TUNING", "PREFIX_TUNING"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_classifying_decoder_without_padding_is_pefts(name: str, method: str) -> None:
    kind = "GPT2" if name == "gpt2" else "Llama"
    pair = pair_of(name, method, "SEQ_CLS", f"{kind}ForSequenceClassification")
    ids = right_padded(6, 6)["input_ids"]
    with attached(pair) as prompted:
        assert_same(prompted(ids).logits, ask_peft(pair, input_ids=ids).logits)


@pytest.mark.parametrize("method", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_a_backbones_states_are_pefts(method: str) -> None:
    pair = pair_of("llama", method, "FEATURE_EXTRACTION", "LlamaModel")
    batch = right_padded()
    with attached(pair) as prompted:
        states = prompted(**batch).last_hidden_state
    assert_same(states, ask_peft(pair, **batch).last_hidden_state[:, -9:])


def test_peft_itself_is_wrong_under_left_padding() -> None:
    """If this fails, PEFT puts a prompt beside its text now, and the README need not say otherwise."""
    pair = pair_of("llama", "PROMPT_TUNING")
    batch, alone = left_padded(9, 3), right_padded(9, 3)["input_ids"][1:, :3]
    expected = ask_peft(pair, input_ids=alone).logits[:, TOKENS:]
    off = ask_peft(pair, **batch).logits[1:, -3:] - expected
    assert float(off.abs().max()) > 1e-3 * float(expected.abs().max())
