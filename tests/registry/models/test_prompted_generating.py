"""What users of transformers' ``generate`` expect holds with a prompt in front."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    StaticCache,
    TextStreamer,
)
from transformers.generation.streamers import BaseStreamer

import promptreg
from promptreg import PromptedModel
from promptreg.errors import AttachError
from registry.models.architectures import VOCAB_SIZE, make
from registry.models.peft_prompts import TOKENS, left_padded, pair_of, right_padded

METHODS = ["PROMPT_TUNING", "PREFIX_TUNING"]


@pytest.fixture(params=[(n, m) for n in ("gpt2", "gemma3") for m in METHODS], ids="-".join)
def prompted(request: pytest.FixtureRequest) -> Iterator[PromptedModel]:
    pair = pair_of(*request.param)
    with promptreg.attach(pair.base, pair.prompt, policy="unchecked") as prompted:
        yield prompted


@pytest.fixture
def gpt2() -> Iterator[PromptedModel]:
    pair = pair_of("gpt2", "PROMPT_TUNING")
    with promptreg.attach(pair.base, pair.prompt, policy="unchecked") as prompted:
        yield prompted


@pytest.fixture(params=METHODS)
def t5(request: pytest.FixtureRequest) -> Iterator[PromptedModel]:
    pair = pair_of("t5", request.param)
    with promptreg.attach(pair.base, pair.prompt, policy="unchecked") as prompted:
        yield prompted


def generation_config(**settings: Any) -> Any:
    return transformers.GenerationConfig(**settings)  # type: ignore[no-untyped-call]


class Heard(BaseStreamer):
    def __init__(self) -> None:
        self.put_ids: list[list[int]] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.put_ids.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended = True


class Seen(LogitsProcessor):
    def __init__(self) -> None:
        self.ids: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.ids.append(input_ids.clone())
        return scores


def test_greedy_tokens_are_those_of_one_pass_after_another(prompted: PromptedModel) -> None:
    ids = right_padded(7, 7)["input_ids"]
    expected = ids
    for _ in range(10):
        logits = prompted(expected).logits
        expected = torch.cat([expected, logits[:, -1:].argmax(dim=-1)], dim=1)
    assert prompted.generate(ids, max_new_tokens=10, min_new_tokens=10).equal(expected)


@pytest.mark.parametrize("implementation", ["dynamic", "static"])
def test_the_kind_of_the_cache_changes_nothing(
    prompted: PromptedModel, implementation: str
) -> None:
    batch = left_padded()
    settings: dict[str, Any] = {"max_new_tokens": 10, "min_new_tokens": 10}
    expected = prompted.generate(**batch, **settings)
    assert prompted.generate(**batch, **settings, cache_implementation=implementation).equal(
        expected
    )
    assert prompted.generate(**batch, **settings, use_cache=False).equal(expected)


def test_a_cache_of_the_callers_own_is_filled(gpt2: PromptedModel) -> None:
    batch = left_padded()
    expected = gpt2.generate(**batch, max_new_tokens=6)
    for cache in (DynamicCache(), StaticCache(gpt2.config, max_cache_len=40)):
        assert gpt2.generate(**batch, max_new_tokens=6, past_key_values=cache).equal(expected)
        assert int(cache.get_seq_length()) == TOKENS + 9 + 6 - 1


def test_keys_and_values_cannot_go_into_a_cache_of_the_callers_own() -> None:
    pair = pair_of("gpt2", "PREFIX_TUNING")
    with promptreg.attach(pair.base, pair.prompt, policy="unchecked") as prompted:
        with pytest.raises(AttachError, match="leave past_key_values out"):
            prompted.generate(**left_padded(), past_key_values=DynamicCache())
        with pytest.raises(AttachError, match="quantized cache cannot begin with them"):
            prompted.generate(**left_padded(), cache_implementation="quantized")


def test_a_streamer_hears_the_text_and_each_new_token(prompted: PromptedModel) -> None:
    ids, heard = right_padded(7)["input_ids"], Heard()
    output = prompted.generate(ids, max_new_tokens=5, streamer=heard)
    assert heard.put_ids == [ids[0].tolist(), *([token] for token in output[0, 7:].tolist())]
    assert heard.ended


def test_a_text_streamer_prints_no_virtual_tokens(
    gpt2: PromptedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    class Words:
        def decode(self, ids: Any, **_: Any) -> str:
            return "".join(f"<{int(token)}> " for token in ids)

    ids: Tensor = right_padded(7)["input_ids"]
    tokenizer: Any = Words()
    streamer = TextStreamer(tokenizer)
    output = gpt2.generate(ids, max_new_tokens=5, streamer=streamer)
    assert capsys.readouterr().out.split() == [f"<{token}>" for token in output[0].tolist()]


def test_logits_processors_see_the_text_alone(prompted: PromptedModel) -> None:
    batch, seen = left_padded(), Seen()
    output = prompted.generate(
        **batch, max_new_tokens=3, logits_processor=LogitsProcessorList([seen])
    )
    assert [ids.shape[1] for ids in seen.ids] == [9, 10, 11]
    assert seen.ids[-1].equal(output[:, :11])


@pytest.mark.parametrize("padded", [left_padded, right_padded])
@pytest.mark.parametrize("setting", [{"repetition_penalty": 5.0}, {"no_repeat_ngram_size": 1}])
def test_penalties_count_each_rows_own_text(
    prompted: PromptedModel, setting: dict[str, Any], padded: Any
) -> None:
    batch = padded()
    settings: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, **setting}
    together = prompted.generate(**batch, **settings)
    for row, (ids, mask) in enumerate(zip(*batch.values(), strict=True)):
        alone = ids[mask == 1][None]
        on = prompted.generate(alone, attention_mask=torch.ones_like(alone), **settings)
        assert together[row, 9:].equal(on[0, alone.shape[1] :])


def test_sampling_follows_the_seed(prompted: PromptedModel) -> None:
    def sample(seed: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            ids: Tensor = prompted.generate(
                **left_padded(), do_sample=True, num_return_sequences=4, max_new_tokens=8
            )
            return ids

    assert sample(0).shape == (12, 17)
    assert sample(0).equal(sample(0))
    assert not sample(0).equal(sample(1))


def test_lengths_count_the_text_and_not_the_prompt(prompted: PromptedModel) -> None:
    batch = left_padded()
    assert prompted.generate(**batch, max_length=15, min_length=15).shape == (3, 15)
    assert prompted.generate(**batch, max_new_tokens=4, min_new_tokens=4).shape == (3, 13)
    config = generation_config(max_length=14, min_length=14, pad_token_id=0)
    assert prompted.generate(**batch, generation_config=config).shape == (3, 14)
    assert config.max_length == 14
    with pytest.raises(ValueError, match="Input length of input_ids is 9"):
        prompted.generate(**batch, max_length=9)


def test_by_default_twenty_tokens_are_new(gpt2: PromptedModel) -> None:
    ids = right_padded(7)["input_ids"]
    with pytest.warns(UserWarning, match="model-agnostic default `max_length`"):
        assert gpt2.generate(ids, eos_token_id=None).shape == (1, 27)


def test_no_text_at_all_begins_with_the_bos_token(prompted: PromptedModel) -> None:
    output = prompted.generate(max_new_tokens=5)
    assert output.equal(prompted.generate(torch.tensor([[1]]), max_new_tokens=5))


def test_embeddings_may_stand_for_the_text(prompted: PromptedModel) -> None:
    batch = left_padded()
    expected = prompted.generate(**batch, max_length=15, min_length=15)
    embedded = prompted.model.get_input_embeddings()(batch["input_ids"])
    mask = batch["attention_mask"]
    given = {"inputs_embeds": embedded, "attention_mask": mask}
    assert prompted.generate(**given, max_length=15, min_length=15).equal(expected[:, 9:])
    both = prompted.generate(**given, input_ids=batch["input_ids"], max_length=15, min_length=15)
    assert both.equal(expected)


def test_positions_of_the_callers_own_count_from_behind_the_prompt(prompted: PromptedModel) -> None:
    batch = left_padded()
    counted = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    expected = prompted.generate(**batch, max_new_tokens=6)
    assert prompted.generate(**batch, position_ids=counted, max_new_tokens=6).equal(expected)


def test_an_output_object_speaks_of_the_text_alone(prompted: PromptedModel) -> None:
    batch = left_padded()
    output = prompted.generate(
        **batch,
        max_new_tokens=3,
        return_dict_in_generate=True,
        output_hidden_states=True,
        output_logits=True,
    )
    assert output.sequences.equal(prompted.generate(**batch, max_new_tokens=3))
    assert [step[0].shape[1] for step in output.hidden_states] == [9, 1, 1]
    forward = prompted(**batch, output_hidden_states=True)
    real = batch["attention_mask"] == 1
    torch.testing.assert_close(output.hidden_states[0][-1][real], forward.hidden_states[-1][real])
    torch.testing.assert_close(output.logits[0], forward.logits[:, -1])


@pytest.mark.parametrize("only_new", [False, True])
def test_generation_goes_on_from_its_own_cache(prompted: PromptedModel, only_new: bool) -> None:
    batch, more = left_padded(), right_padded(3, 3, 3, seed=5)["input_ids"]
    first = prompted.generate(
        **batch, max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True
    )
    ids = torch.cat([first.sequences, more], dim=1)
    mask = torch.cat([batch["attention_mask"], torch.ones(3, 7, dtype=torch.long)], dim=1)
    settings: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5}
    expected = prompted.generate(ids, attention_mask=mask, **settings)
    # The last token that was generated is not in the cache yet.
    given = ids[:, 12:] if only_new else ids
    output = prompted.generate(
        given, attention_mask=mask, past_key_values=first.past_key_values, **settings
    )
    assert output[:, given.shape[1] :].equal(expected[:, 16:])


def test_a_cache_that_holds_more_than_the_text_is_refused(gpt2: PromptedModel) -> None:
    ids = right_padded(7)["input_ids"]
    cache = gpt2(ids, use_cache=True).past_key_values
    with pytest.raises(AttachError, match="pass the whole sequence"):
        gpt2.generate(ids[:, :4], past_key_values=cache)
    bare = gpt2.model(ids[:, :3], use_cache=True).past_key_values
    with pytest.raises(AttachError, match="another model filled it"):
        gpt2.generate(ids, past_key_values=bare)


@pytest.mark.parametrize(
    "settings",
    [
        {"assistant_model": "a model"},
        {"prompt_lookup_num_tokens": 2},
        {"generation_config": generation_config(prompt_lookup_num_tokens=2)},
        {"custom_generate": "somewhere/on-the-hub"},
        {"cache_implementation": "paged"},
        {"prefill_chunk_size": 4},
        {"token_healing": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_would_leave_the_prompt_out_is_refused(
    gpt2: PromptedModel, settings: dict[str, Any]
) -> None:
    with pytest.raises(AttachError, match="prompt"):
        gpt2.generate(right_padded(7)["input_ids"], **settings)


def test_text_and_new_tokens_must_fit_into_the_window_behind_the_prompt(
    gpt2: PromptedModel,
) -> None:
    text = right_padded(100)["input_ids"]
    window = gpt2.config.max_position_embeddings
    most = window - TOKENS - 100
    assert gpt2.generate(text, max_new_tokens=most, min_new_tokens=most).shape == (1, 100 + most)
    with pytest.raises(AttachError, match=f"{most} fit into the model's window of {window}"):
        gpt2.generate(text, max_new_tokens=most + 1)
    with pytest.raises(AttachError, match=f"and {most} fit"):
        gpt2.generate(text, max_length=window)
    with pytest.raises(AttachError, match=f"and {window - TOKENS} fit into the model's window"):
        gpt2.generate(right_padded(window)["input_ids"], max_new_tokens=1)


def test_the_models_own_length_stops_at_its_window() -> None:
    base = make("gpt2")
    base.generation_config.max_length = 128
    pair = pair_of("gpt2", "PROMPT_TUNING")
    with promptreg.attach(base, pair.prompt, policy="unchecked") as prompted:
        output = prompted.generate(right_padded(110)["input_ids"], eos_token_id=None)
    assert output.shape == (1, 128 - TOKENS)


def test_a_model_without_an_output_head_says_what_to_load() -> None:
    pair = pair_of("gpt2", "PROMPT_TUNING")
    backbone = make("gpt2", as_class="GPT2Model")
    with promptreg.attach(backbone, pair.prompt, policy="unchecked") as prompted:
        assert prompted(right_padded(4)["input_ids"]).last_hidden_state.shape == (1, 4, 32)
        with pytest.raises(AttachError, match="load the base model with AutoModelForCausalLM"):
            prompted.generate(right_padded(4)["input_ids"])


def test_generation_leaves_the_base_models_settings_alone(prompted: PromptedModel) -> None:
    before = copy.deepcopy(prompted.model.generation_config.to_dict())
    attributes = set(vars(prompted.model))
    prompted.generate(**left_padded(), max_length=15)
    assert prompted.generation_config.to_dict() == before
    assert set(vars(prompted.model)) == attributes


def test_an_encoder_decoders_beams_and_samples_are_of_each_row(t5: PromptedModel) -> None:
    batch = right_padded()
    beams = t5.generate(**batch, num_beams=3, num_return_sequences=2, max_new_tokens=6)
    alone = t5.generate(
        batch["input_ids"][:1], num_beams=3, num_return_sequences=2, max_new_tokens=6
    )
    assert beams.shape[0] == 6
    assert beams[:2, : alone.shape[1]].equal(alone)
    assert (
        t5.generate(**batch, do_sample=True, num_return_sequences=2, max_new_tokens=6).shape[0] == 6
    )


def test_an_encoder_decoders_processors_see_the_encoders_text(t5: PromptedModel) -> None:
    ids = right_padded(7)["input_ids"]
    output = t5.generate(ids, encoder_no_repeat_ngram_size=1, max_new_tokens=8)
    assert not set(output[0, 1:].tolist()) & set(ids[0].tolist())


def test_an_encoder_decoder_takes_embeddings_and_begun_answers(t5: PromptedModel) -> None:
    batch = right_padded()
    embedded = t5.model.get_input_embeddings()(batch["input_ids"])
    expected = t5.generate(**batch, max_new_tokens=6)
    mask = batch["attention_mask"]
    assert t5.generate(inputs_embeds=embedded, attention_mask=mask, max_new_tokens=6).equal(
        expected
    )
    begun = t5.generate(**batch, decoder_input_ids=expected[:, :3], max_new_tokens=4)
    assert begun[:, : expected.shape[1]].equal(expected)


def test_an_encoder_decoder_gives_an_output_object(t5: PromptedModel) -> None:
    output = t5.generate(
        **right_padded(), max_new_tokens=4, return_dict_in_generate=True, output_scores=True
    )
    assert output.scores[0].shape == (3, VOCAB_SIZE)
