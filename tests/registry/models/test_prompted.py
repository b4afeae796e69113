"""Calling a prompted model behaves as calling its base model does, for the text."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, DynamicCache

import promptreg
from promptreg import Placement, PromptedModel
from promptreg.errors import AttachError
from registry.models.architectures import VOCAB_SIZE, make
from registry.models.peft_prompts import TOKENS, left_padded, pair_of, right_padded, rows_alone

METHODS = ["PROMPT_TUNING", "PREFIX_TUNING"]


def attach(name: str, method: str = "PROMPT_TUNING", **how: Any) -> PromptedModel:
    pair = pair_of(name, method, **how)
    return promptreg.attach(pair.base, pair.prompt, policy="unchecked")


@pytest.fixture(params=[(n, m) for n in ("gpt2", "llama") for m in METHODS], ids="-".join)
def prompted(request: pytest.FixtureRequest) -> Iterator[PromptedModel]:
    with attach(*request.param) as prompted:
        yield prompted


@pytest.fixture
def gpt2() -> Iterator[PromptedModel]:
    with attach("gpt2") as prompted:
        yield prompted


def test_outputs_are_for_the_texts_tokens(prompted: PromptedModel) -> None:
    batch = left_padded()
    output = prompted(**batch, output_hidden_states=True)
    assert output.logits.shape == (3, 9, VOCAB_SIZE)
    assert {tuple(states.shape) for states in output.hidden_states} == {(3, 9, 32)}
    real = batch["attention_mask"] == 1
    head: Any = prompted.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(head(output.hidden_states[-1][real]), output.logits[real])


def test_attentions_are_of_the_text_to_all_that_is_there() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    base = make("llama")
    base.load_state_dict(pair.base.state_dict())
    base.set_attn_implementation("eager")
    with promptreg.attach(base, pair.prompt, policy="unchecked") as prompted:
        weights = prompted(**left_padded(), output_attentions=True).attentions
    assert {tuple(layer.shape) for layer in weights} == {(3, 4, 9, TOKENS + 9)}
    torch.testing.assert_close(weights[0].sum(dim=-1), torch.ones(3, 4, 9))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["gemma3", "t5", "bert"])
def test_each_kind_of_attention_gives_the_same(name: str, method: str, attention: str) -> None:
    pair = pair_of(name, method)
    batch = left_padded()
    if name == "t5":
        batch["decoder_input_ids"] = right_padded(4, 4, 4)["input_ids"]
    with promptreg.attach(pair.base, pair.prompt, policy="unchecked") as prompted:
        expected = prompted(**batch).logits
    before = pair.base.config._attn_implementation
    pair.base.set_attn_implementation(attention)
    try:
        with promptreg.attach(pair.base, pair.prompt, policy="unchecked") as prompted:
            logits = prompted(**batch).logits
    finally:
        pair.base.set_attn_implementation(before)
    real = ... if name != "gemma3" else batch["attention_mask"] == 1
    torch.testing.assert_close(logits[real], expected[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padded", [left_padded, right_padded])
@pytest.mark.parametrize("placement", ["prefix", "after-bos", "key-values"])
def test_the_loss_is_over_the_texts_tokens_alone(placement: str, padded: Any) -> None:
    pair = pair_of("llama", METHODS[placement == "key-values"])
    prompt = replace(pair.prompt, placement=Placement(placement))
    batch = padded()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with promptreg.attach(pair.base, prompt, policy="unchecked") as prompted:
        loss = prompted(**batch, labels=labels).loss
        alone = [(prompted(ids, labels=ids).loss, ids.shape[1]) for ids in rows_alone(batch)]
    # In front of the text, virtual tokens predict its first token too.
    counts = [length - (placement != "prefix") for _, length in alone]
    total = sum(own * count for (own, _), count in zip(alone, counts, strict=True))
    torch.testing.assert_close(loss, torch.as_tensor(total / sum(counts)))


@pytest.mark.parametrize("placement", ["prefix", "after-bos"])
def test_logits_to_keep_counts_the_texts_tokens(placement: str) -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    prompt = replace(pair.prompt, placement=Placement(placement))
    ids = right_padded(7)["input_ids"]
    with promptreg.attach(pair.base, prompt, policy="unchecked") as prompted:
        whole = prompted(ids).logits
        for keep in (1, 3, 7):
            torch.testing.assert_close(prompted(ids, logits_to_keep=keep).logits, whole[:, -keep:])
        if placement == "prefix":
            some = prompted(ids, logits_to_keep=torch.tensor([0, 4])).logits
            torch.testing.assert_close(some, whole[:, [0, 4]])


def test_no_logits_are_computed_for_virtual_tokens(gpt2: PromptedModel) -> None:
    seen: list[tuple[int, ...]] = []
    head: Any = gpt2.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    hook = head.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
    gpt2(right_padded(7)["input_ids"])
    hook.remove()
    assert seen == [(1, 7, VOCAB_SIZE)]


def test_embeddings_may_stand_for_the_text(prompted: PromptedModel) -> None:
    batch = left_padded()
    embedded = prompted.model.get_input_embeddings()(batch["input_ids"])
    logits = prompted(inputs_embeds=embedded, attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(logits, prompted(**batch).logits)


def test_positions_of_the_callers_own_count_from_behind_the_prompt(prompted: PromptedModel) -> None:
    batch = left_padded()
    counted = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    real = batch["attention_mask"] == 1
    expected = prompted(**batch).logits[real]
    torch.testing.assert_close(prompted(**batch, position_ids=counted).logits[real], expected)
    cache = prompted(**batch, use_cache=True).past_key_values
    mask = torch.cat([batch["attention_mask"], torch.ones(3, 1, dtype=torch.long)], dim=1)
    step: dict[str, Any] = {"input_ids": torch.tensor([[5], [6], [7]]), "attention_mask": mask}
    second = prompted(**step, position_ids=counted[:, -1:] + 1, past_key_values=cache).logits
    cache = prompted(**batch, use_cache=True).past_key_values
    torch.testing.assert_close(second, prompted(**step, past_key_values=cache).logits)


def test_positions_that_are_not_one_a_token_are_refused(gpt2: PromptedModel) -> None:
    with pytest.raises(AttachError, match="pass one position for each text token"):
        gpt2(right_padded(7)["input_ids"], position_ids=torch.arange(3)[None])


def test_a_pass_without_a_mask_goes_on_from_a_cache(prompted: PromptedModel) -> None:
    ids = right_padded(7, 7)["input_ids"]
    expected = prompted(ids).logits
    first = prompted(ids[:, :4], use_cache=True)
    second = prompted(ids[:, 4:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), expected)
    assert int(second.past_key_values.get_seq_length()) == TOKENS + 7


def test_a_mask_that_does_not_cover_the_text_is_refused(gpt2: PromptedModel) -> None:
    ids = right_padded(7)["input_ids"]
    with pytest.raises(AttachError, match=r"attention_mask is \[1, 12\], and the text is \[1, 7\]"):
        gpt2(ids, attention_mask=torch.ones(1, 12))
    cache = gpt2(ids[:, :4], use_cache=True).past_key_values
    with pytest.raises(AttachError, match="4 tokens of it in the cache"):
        gpt2(ids[:, 4:], attention_mask=torch.ones(1, 3), past_key_values=cache)
    with pytest.raises(AttachError, match="pass one of two dimensions"):
        gpt2(ids, attention_mask=torch.ones(1, 1, 7, 7))


def test_text_must_come_as_a_batch(gpt2: PromptedModel) -> None:
    with pytest.raises(AttachError, match="there is no text"):
        gpt2()
    with pytest.raises(AttachError, match="give it a batch dimension"):
        gpt2(torch.tensor([3, 4, 5]))


def test_a_first_cache_of_the_callers_own_is_no_place_for_keys_and_values() -> None:
    ids, start = right_padded(7)["input_ids"], right_padded(4)["input_ids"]
    refused = pytest.raises(AttachError, match="leave past_key_values out of the first call")
    with attach("llama", "PREFIX_TUNING") as prompted, refused:
        prompted(ids, past_key_values=DynamicCache())
    with attach("t5", "PREFIX_TUNING") as prompted:
        begun = prompted(ids, decoder_input_ids=start, use_cache=True)
        assert int(begun.past_key_values.get_seq_length()) == TOKENS + 4


def test_tuples_come_where_they_are_asked_for(gpt2: PromptedModel) -> None:
    ids = right_padded(7)["input_ids"]
    output = gpt2(ids, return_dict=False)
    assert isinstance(output, tuple)
    assert output[0].equal(gpt2(ids).logits)


def test_a_text_too_long_for_the_window_says_how_much_fits(gpt2: PromptedModel) -> None:
    window = gpt2.config.max_position_embeddings
    fits = right_padded(window - TOKENS)["input_ids"]
    assert gpt2(fits).logits.shape[1] == window - TOKENS
    with pytest.raises(
        AttachError, match=f"{window - TOKENS} fit into the model's window of {window}"
    ):
        gpt2(torch.cat([fits, fits[:, :1]], dim=1))
    cache = gpt2(fits, use_cache=True).past_key_values
    with pytest.raises(AttachError, match=f"and {window - TOKENS} fit"):
        gpt2(fits[:, :1], past_key_values=cache)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["gpt2", "opt", "bert"])
def test_padding_beyond_the_window_takes_no_room(name: str, method: str) -> None:
    """Tokenizers pad to the whole window; PEFT then runs off the table of positions."""
    with attach(name, method) as prompted:
        batch = right_padded(prompted.config.max_position_embeddings, 6)
        batch = {key: tensor[1:] for key, tensor in batch.items()}
        logits = prompted(**batch).logits
        expected = prompted(batch["input_ids"][:, :6]).logits
    if name != "bert":
        logits = logits[:, :6]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_roberta_counts_its_positions_from_behind_the_padding_id() -> None:
    config = AutoConfig.for_model(
        "roberta", vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=34, num_labels=3,
    )  # fmt: skip
    build: Any = AutoModelForSequenceClassification.from_config
    base = build(config).eval()
    prompt = replace(pair_of("llama", "PROMPT_TUNING").prompt, task_type=None)
    with promptreg.attach(base, prompt, policy="unchecked") as prompted:
        whole = right_padded(27)["input_ids"]
        assert prompted(whole).logits.shape == (1, 3)
        with pytest.raises(AttachError, match="27 fit into the model's window of 32"):
            prompted(torch.cat([whole, whole[:, :1]], dim=1))
        batch = left_padded()
        for row, alone in enumerate(rows_alone(batch)):
            expected = prompted(alone).logits[0]
            torch.testing.assert_close(
                prompted(**batch).logits[row], expected, rtol=1e-5, atol=1e-6
            )


def test_a_decoder_has_no_token_types_for_virtual_tokens(gpt2: PromptedModel) -> None:
    ids = right_padded(7)["input_ids"]
    with pytest.raises(AttachError, match="leave token_type_ids out"):
        gpt2(ids, token_type_ids=torch.zeros_like(ids))


def test_token_labels_and_answers_move_with_their_tokens() -> None:
    batch = left_padded()
    labels = (batch["input_ids"] % 3).masked_fill(batch["attention_mask"] == 0, -100)
    how = {"task": "TOKEN_CLS", "as_class": "BertForTokenClassification"}
    for method in METHODS:
        with attach("bert", method, **how) as prompted:
            output = prompted(**batch, labels=labels)
            own = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
            torch.testing.assert_close(output.loss, own)


@pytest.mark.parametrize("method", METHODS)
def test_answers_are_looked_for_where_their_tokens_are(method: str) -> None:
    how = {"task": "QUESTION_ANS", "as_class": "BertForQuestionAnswering", "num_labels": 2}
    batch = left_padded()
    with attach("bert", method, **how) as prompted:
        best = prompted(**batch)
        own = batch["attention_mask"][1] == 1
        likeliest = int(best.start_logits[1].masked_fill(~own, -100.0).argmax())
        losses = []
        for start in own.nonzero()[:, 0].tolist():
            starts, ends = torch.tensor([0, start, 8]), torch.tensor([8, 8, 8])
            losses.append(
                (float(prompted(**batch, start_positions=starts, end_positions=ends).loss), start)
            )
    assert min(losses)[1] == likeliest


def test_labels_leave_no_trace_in_the_config() -> None:
    with attach("bert") as prompted:
        before = prompted.config.problem_type
        prompted(**right_padded(), labels=torch.tensor([0, 1, 2]))
        assert prompted.config.problem_type == before


def test_an_encoders_outputs_can_be_used_again() -> None:
    batch = left_padded()
    start = right_padded(4, 4, 4)["input_ids"]
    with attach("t5") as prompted:
        first = prompted(**batch, decoder_input_ids=start)
        states = first.encoder_last_hidden_state
        assert states.shape == (3, TOKENS + 9, 32)
        again = prompted(
            encoder_outputs=(states,),
            attention_mask=batch["attention_mask"],
            decoder_input_ids=start,
        )
        torch.testing.assert_close(again.logits, first.logits)
        bare = prompted.model.get_encoder()(**batch).last_hidden_state
        with pytest.raises(AttachError, match="the encoder did not see the prompt"):
            prompted(
                encoder_outputs=(bare,),
                attention_mask=batch["attention_mask"],
                decoder_input_ids=start,
            )


def test_nothing_is_recorded_for_gradients(prompted: PromptedModel) -> None:
    output = prompted(right_padded(7)["input_ids"])
    assert not output.logits.requires_grad


def test_embeddings_of_the_callers_own_may_get_gradients(gpt2: PromptedModel) -> None:
    embedded: Tensor = gpt2.model.get_input_embeddings()(right_padded(7)["input_ids"]).detach()
    embedded.requires_grad_()
    gpt2(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad is not None
    assert all(parameter.grad is None for parameter in gpt2.model.parameters())
