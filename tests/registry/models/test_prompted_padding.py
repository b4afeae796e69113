"""Under padding each row gets exactly what it gets alone, which PEFT does not give it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import promptreg
from promptreg import Placement, PromptedModel
from promptreg.prompts import Method
from registry.models.architectures import ARCHITECTURES
from registry.models.peft_prompts import left_padded, pair_of, right_padded, rows_alone

Padding = Callable[[], dict[str, Any]]

PADDINGS = [left_padded, right_padded]
# Five virtual tokens, nine of text and twelve more go far beyond the sliding window of eight.
NEW = 12
PLACEMENTS = ["prefix", "after-bos", "key-values"]
CAUSAL = sorted(name for name, a in ARCHITECTURES.items() if a.kind == "causal")


def attach(name: str, placement: str, **how: Any) -> PromptedModel:
    kind = "PREFIX_TUNING" if placement == "key-values" else "PROMPT_TUNING"
    pair = pair_of(name, kind, **how)
    prompt = replace(pair.prompt, placement=Placement(placement))
    return promptreg.attach(pair.base, prompt, policy="unchecked")


@pytest.fixture(params=[(n, p) for n in CAUSAL for p in PLACEMENTS], ids="-".join)
def decoder(request: pytest.FixtureRequest) -> Iterator[PromptedModel]:
    with attach(*request.param) as prompted:
        yield prompted


@pytest.fixture(params=PLACEMENTS)
def t5(request: pytest.FixtureRequest) -> Iterator[PromptedModel]:
    with attach("t5", request.param) as prompted:
        yield prompted


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("padded", PADDINGS)
def test_a_decoders_rows_get_what_they_get_alone(decoder: PromptedModel, padded: Padding) -> None:
    batch = padded()
    logits = decoder(**batch).logits
    for row, alone in enumerate(rows_alone(batch)):
        own = logits[row][batch["attention_mask"][row] == 1]
        assert_close(own, decoder(alone).logits[0])


@pytest.mark.parametrize("padded", PADDINGS)
def test_a_decoders_rows_go_on_as_they_do_alone(decoder: PromptedModel, padded: Padding) -> None:
    batch = padded()
    settings: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    together = decoder.generate(**batch, **settings)
    assert together[:, :9].equal(batch["input_ids"])
    for row, alone in enumerate(rows_alone(batch)):
        on = decoder.generate(alone, attention_mask=torch.ones_like(alone), **settings)
        assert together[row, 9:].equal(on[0, alone.shape[1] :])


@pytest.mark.parametrize("padded", PADDINGS)
def test_beams_of_padded_rows_are_those_of_the_rows_alone(
    decoder: PromptedModel, padded: Padding
) -> None:
    batch = padded()
    settings: dict[str, Any] = {
        "max_new_tokens": 6,
        "min_new_tokens": 6,
        "num_beams": 3,
        "num_return_sequences": 2,
    }
    together = decoder.generate(**batch, **settings)
    for row, alone in enumerate(rows_alone(batch)):
        on = decoder.generate(alone, attention_mask=torch.ones_like(alone), **settings)
        assert together[2 * row : 2 * row + 2, 9:].equal(on[:, alone.shape[1] :])


def test_permuting_rows_permutes_a_decoders_outputs(decoder: PromptedModel) -> None:
    batch, order = left_padded(), torch.tensor([2, 0, 1])
    permuted = {name: tensor[order] for name, tensor in batch.items()}
    real = permuted["attention_mask"] == 1
    assert_close(decoder(**permuted).logits[real], decoder(**batch).logits[order][real])


@pytest.mark.parametrize("padded", PADDINGS)
def test_passes_over_a_growing_text_add_up_to_one_pass(
    decoder: PromptedModel, padded: Padding
) -> None:
    batch = padded()
    longer = {
        "input_ids": torch.cat(
            [batch["input_ids"], right_padded(4, 4, 4, seed=2)["input_ids"]], dim=1
        ),
        "attention_mask": torch.cat(
            [batch["attention_mask"], torch.ones(3, 4, dtype=torch.long)], dim=1
        ),
    }
    cache = decoder(**batch, use_cache=True).past_key_values
    second = decoder(
        longer["input_ids"][:, 9:],
        attention_mask=longer["attention_mask"],
        past_key_values=cache,
        use_cache=True,
    )
    if padded is right_padded and decoder.config.model_type == "gemma3_text":
        return  # a sliding window counts the padding between the two texts, as in the bare model
    for row, alone in enumerate(rows_alone(longer)):
        assert_close(second.logits[row], decoder(alone).logits[0, -4:])


@pytest.mark.parametrize("padded", PADDINGS)
def test_an_encoder_decoders_rows_get_what_they_get_alone(
    t5: PromptedModel, padded: Padding
) -> None:
    batch = padded()
    start = right_padded(5, 5, 5, seed=3)["input_ids"]
    logits = t5(**batch, decoder_input_ids=start).logits
    together = t5.generate(**batch, max_new_tokens=NEW, min_new_tokens=NEW)
    for row, alone in enumerate(rows_alone(batch)):
        assert_close(logits[row], t5(alone, decoder_input_ids=start[row : row + 1]).logits[0])
        on = t5.generate(alone, max_new_tokens=NEW, min_new_tokens=NEW)
        assert together[row].equal(on[0])


def test_a_decoder_input_padded_on_the_left_is_beside_its_keys(t5: PromptedModel) -> None:
    batch, start = right_padded(), left_padded(6, 4, 3, seed=3)
    logits = t5(
        **batch,
        decoder_input_ids=start["input_ids"],
        decoder_attention_mask=start["attention_mask"],
    ).logits
    for row, (alone, begun) in enumerate(zip(rows_alone(batch), rows_alone(start), strict=True)):
        own = logits[row, -begun.shape[1] :]
        assert_close(own, t5(alone, decoder_input_ids=begun).logits[0])


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "BertForTokenClassification"])
@pytest.mark.parametrize("padded", PADDINGS)
def test_an_encoders_rows_get_what_they_get_alone(
    padded: Padding, kind: str, placement: str
) -> None:
    task = "SEQ_CLS" if "Sequence" in kind else "TOKEN_CLS"
    batch = padded()
    types = (batch["attention_mask"].cumsum(dim=1) > 2).long() * batch["attention_mask"]
    with attach("bert", placement, task=task, as_class=kind) as prompted:
        logits = prompted(**batch, token_type_ids=types).logits
        for row, alone in enumerate(rows_alone(batch)):
            real = batch["attention_mask"][row] == 1
            own = logits[row] if task == "SEQ_CLS" else logits[row][real]
            expected = prompted(alone, token_type_ids=types[row][real][None]).logits[0]
            assert_close(own, expected)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(
    ("name", "kind"),
    [("gpt2", "GPT2"), ("llama", "Llama"), ("opt", "OPT"), ("mixtral", "Mixtral")],
)
@pytest.mark.parametrize("padded", PADDINGS)
def test_a_classifying_decoders_rows_get_what_they_get_alone(
    padded: Padding, name: str, kind: str, placement: str
) -> None:
    batch = padded()
    how = {"task": "SEQ_CLS", "as_class": f"{kind}ForSequenceClassification"}
    with attach(name, placement, **how) as prompted:
        logits = prompted(**batch).logits
        for row, alone in enumerate(rows_alone(batch)):
            assert_close(logits[row], prompted(alone).logits[0])


def test_a_prompt_longer_than_the_sliding_window_is_right_too() -> None:
    pair = pair_of("gemma3", "PREFIX_TUNING", sliding_window=4)
    batch = left_padded()
    with promptreg.attach(pair.base, pair.prompt, policy="unchecked") as prompted:
        assert pair.prompt.method is Method.PREFIX_TUNING
        logits = prompted(**batch).logits
        for row, alone in enumerate(rows_alone(batch)):
            own = logits[row][batch["attention_mask"][row] == 1]
            assert_close(own, prompted(alone).logits[0])


@pytest.mark.parametrize("name", CAUSAL)
def test_a_missing_mask_is_inferred_as_transformers_does(name: str) -> None:
    batch = left_padded()
    with attach(name, "prefix") as prompted:
        told = prompted.generate(**batch, max_new_tokens=4)
        assert prompted.generate(batch["input_ids"], max_new_tokens=4).equal(told)
