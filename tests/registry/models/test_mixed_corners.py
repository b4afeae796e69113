"""Mixed batches where a model, a cache or a setting is out of the ordinary."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

import promptreg
from promptreg.errors import AttachError, ConfigurationError
from promptreg_cli.demo import base_directory
from registry.models.architectures import VOCAB_SIZE, make
from registry.models.mixed_prompts import attach_all, make_prompts
from registry.models.peft_prompts import left_padded, right_padded
from registry.models.test_answering import LABELS, TEXTS
from registry.models.test_attached import IDS, soft

HOW: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}


def seq2seq(kind: str, **settings: Any) -> Any:
    config = AutoConfig.for_model(
        kind, vocab_size=VOCAB_SIZE, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=3, **settings,
    )  # fmt: skip
    torch.manual_seed(0)
    build: Any = AutoModelForSeq2SeqLM.from_config
    return build(config).eval()


def test_an_encoders_prefixes_of_several_lengths_are_refused() -> None:
    model = make("bert")
    with attach_all(model, make_prompts(model)) as prompted:
        for rows in (["prefix", None], ["prefix", "short"]):
            with pytest.raises(AttachError, match="counts positions from behind them"):
                prompted(IDS, prompts=rows)
        assert prompted(IDS, prompts=["prefix"] * 2).logits.shape == (2, 3)


def test_answers_of_an_encoder_do_not_depend_on_the_batch() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_directory())
    model = make("bert", vocab_size=len(tokenizer))
    with attach_all(model, make_prompts(model), tokenizer=tokenizer) as prompted:
        rows = ["prefix", None, "short"]
        together = prompted.answer(TEXTS, prompts=rows)
        for text, row, answer in zip(TEXTS, rows, together, strict=True):
            (alone,) = prompted.answer([text], prompts=[row])
            assert answer.scores == pytest.approx(alone.scores, rel=1e-4)


@pytest.mark.parametrize("kind", ["m2m_100", "bart", "marian"])
def test_a_decoder_that_counts_columns_takes_prefixes_of_one_length(kind: str) -> None:
    model = seq2seq(kind)
    with attach_all(model, make_prompts(model)) as prompted:
        with pytest.raises(AttachError, match="counts columns as positions"):
            prompted(IDS, prompts=["prefix", None], decoder_input_ids=IDS[:, :3])
        prompted(IDS, prompts=["prefix"] * 2, decoder_input_ids=IDS[:, :3])


@pytest.mark.parametrize("kind", ["marian", "pegasus", "bart"])
def test_a_row_without_a_prompt_is_scaled_as_the_bare_model_scales_it(kind: str) -> None:
    model = seq2seq(kind, scale_embedding=True)
    batch = right_padded(9, 6)
    start = IDS[:, :3]
    with attach_all(model, make_prompts(model)) as prompted, torch.no_grad():
        logits = prompted(**batch, prompts=["short", None], decoder_input_ids=start).logits
        bare = model(**batch, decoder_input_ids=start).logits
    torch.testing.assert_close(logits[1], bare[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_lengths_count_the_text_whether_or_not_a_row_has_a_prompt(name: str) -> None:
    model: Any = make(name)
    how: dict[str, Any] = {"max_length": 12, "do_sample": False, "eos_token_id": None}
    with attach_all(model, make_prompts(model)) as prompted:
        bare = model.generate(IDS, **how)
        assert prompted.generate(IDS, prompts=[None, None], **how).equal(bare)
        assert prompted.generate(IDS, prompts=["long", None], **how).shape == (2, 12)
        least: dict[str, Any] = {"min_length": 11, "max_new_tokens": 9, "do_sample": False}
        ends = [*range(3, VOCAB_SIZE)]
        bare = model.generate(IDS, eos_token_id=ends, **least)
        assert prompted.generate(IDS, prompts=[None, None], eos_token_id=ends, **least).equal(bare)
        # The first end that it may write stands behind 11 tokens of text and answer.
        written = prompted.generate(IDS, prompts=["short", None], eos_token_id=ends, **least)
        assert written.shape[1] >= 12
        assert all(token < 3 for token in written[0, 7:11].tolist())


def test_prefixes_of_several_lengths_need_no_setting_of_the_cache_in_t5() -> None:
    model = make("t5")
    with attach_all(model, make_prompts(model)) as prompted:
        rows = ["prefix", None]
        expected = prompted.generate(IDS, prompts=rows, **HOW)
        assert prompted.generate(IDS, prompts=rows, use_cache=False, **HOW).equal(expected)
        started = prompted.generate(
            IDS, prompts=rows, decoder_input_ids=torch.tensor([[5], [6]]), **HOW
        )
        assert started.shape[1] == 2 + 8


def test_a_labelled_pass_goes_on_from_its_cache() -> None:
    model = make("llama")
    rows = ["prefix", "short"]
    new = right_padded(2, 2, seed=3)["input_ids"]
    with attach_all(model, make_prompts(model)) as prompted, torch.no_grad():
        whole = prompted(torch.cat([IDS, new], dim=1), prompts=rows).logits[:, -2:]
        for extra in ({"labels": IDS}, {}):
            first = prompted(IDS, prompts=rows, use_cache=True, **extra)
            last = prompted(new, prompts=rows, past_key_values=first.past_key_values).logits
            torch.testing.assert_close(last, whole, rtol=1e-5, atol=1e-5)


def test_a_cache_goes_on_with_the_prompts_that_it_began_with() -> None:
    model = make("llama")
    new = right_padded(2, 2, seed=3)["input_ids"]
    with attach_all(model, make_prompts(model)) as prompted, torch.no_grad():
        cache = prompted(IDS, prompts=["short", "long"], use_cache=True).past_key_values
        with pytest.raises(
            AttachError, match="began with the prompts short, long, and long, short"
        ):
            prompted(new, prompts=["long", "short"], past_key_values=cache)
        prompted.add(soft(8), name="long", policy="unchecked", replace=True)
        # Who was answered by the old prompt goes on with it.
        assert prompted(new, prompts=["short", "long"], past_key_values=cache).logits.shape[1] == 2


def test_a_cache_goes_on_from_generate() -> None:
    model = make("llama")
    rows = ["prefix", "behind", None]
    batch = left_padded(9, 6, 3)
    with attach_all(model, make_prompts(model)) as prompted:
        whole = prompted.generate(**batch, prompts=rows, **{**HOW, "max_new_tokens": 12})
        first = prompted.generate(**batch, prompts=rows, return_dict_in_generate=True, **HOW)
        mask = torch.cat([batch["attention_mask"], torch.ones(3, 8, dtype=torch.long)], dim=1)
        rest = prompted.generate(
            first.sequences,
            attention_mask=mask,
            prompts=rows,
            past_key_values=first.past_key_values,
            **{**HOW, "max_new_tokens": 4},
        )
    assert rest.equal(whole)


def test_attentions_that_an_implementation_does_not_give_are_none() -> None:
    model = make("llama")
    with attach_all(model, make_prompts(model)) as prompted:
        output = prompted.generate(
            IDS,
            prompts=["short", None],
            output_attentions=True,
            return_dict_in_generate=True,
            **HOW,
        )
    assert output.sequences.shape == (2, 15)


def test_a_static_cache_that_would_give_other_tokens_is_refused() -> None:
    config = AutoConfig.for_model(
        "gpt_neo", vocab_size=VOCAB_SIZE, hidden_size=32, num_layers=2, num_heads=4,
        attention_types=[[["global", "local"], 1]], max_position_embeddings=64,
    )  # fmt: skip
    build: Any = AutoModelForCausalLM.from_config
    with (
        promptreg.attach(build(config).eval(), soft(4), policy="unchecked") as prompted,
        pytest.raises(AttachError, match="a static cache gives other tokens"),
    ):
        prompted.generate(IDS, cache_implementation="static", **HOW)


def test_labels_are_scored_on_models_whose_caches_cannot_be_shared() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_directory())
    config = AutoConfig.for_model(
        "mamba", vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4
    )
    torch.manual_seed(0)
    build: Any = AutoModelForCausalLM.from_config
    model = build(config).eval()
    prompt = soft(4, labels=LABELS)
    with (
        promptreg.attach(model, prompt, policy="unchecked", tokenizer=tokenizer) as prompted,
        torch.no_grad(),
    ):
        (answer,) = prompted.answer(["garden"])
        expected = [_log_prob(prompted, tokenizer, "garden", label) for label in LABELS]
    wanted = torch.tensor(expected).softmax(dim=0).tolist()
    assert list((answer.scores or {}).values()) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize(
    ("texts", "how", "said"),
    [
        (["a", 3], {}, "text 1 is a int"),
        (["a", "\ud800"], {}, "text 1 holds half a character"),
        (["a"], {"batch_size": 0}, "batch_size is 0"),
        (["a"], {"num_return_sequences": 2}, "a text has one answer"),
        (["a"], {"return_dict_in_generate": True}, "a text has one answer"),
    ],
)
def test_what_leaves_no_answer_a_text_is_refused(texts: Any, how: Any, said: str) -> None:
    with (
        promptreg.attach(make("llama"), tokenizer=_tokenizer()) as prompted,
        pytest.raises(AttachError, match=said),
    ):
        prompted.answer(texts, prompts=[None] * len(texts), **how)


def test_what_is_no_name_and_no_size_is_refused() -> None:
    model = make("llama")
    with pytest.raises(ConfigurationError, match="no number of bytes"):
        promptreg.attach(model, key_value_bytes="2GB")  # type: ignore[arg-type]
    with promptreg.attach(model, soft(4), policy="unchecked") as prompted:
        with pytest.raises(AttachError, match="the name is ''"):
            prompted.add(soft(5), name="")
        with pytest.raises(AttachError, match="no prompt 5 is attached"):
            prompted(IDS, prompts=[5, None])  # type: ignore[list-item]
        with pytest.raises(AttachError, match="pass one of them"):
            prompted(IDS, inputs_embeds=torch.zeros(2, 7, 32))


def test_a_continuation_ends_where_the_table_of_positions_does() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_directory())
    model = make("gpt2", vocab_size=len(tokenizer), n_positions=32)
    with promptreg.attach(model, tokenizer=tokenizer) as prompted:
        text = "garden " * 4
        (answer,) = prompted.answer([text], prompts=[None])
    assert answer.text is not None


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_directory())


def _log_prob(prompted: Any, tokenizer: Any, text: str, label: str) -> float:
    ids = tokenizer(text)["input_ids"]
    own = tokenizer(f" {label}", add_special_tokens=False)["input_ids"]
    logits: Tensor = prompted(torch.tensor([ids + own])).logits[0]
    return float(logits[-len(own) - 1 : -1].log_softmax(dim=-1)[range(len(own)), own].sum())
