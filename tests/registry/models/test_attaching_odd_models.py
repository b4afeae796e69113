"""Models that are unlike the matrix get their prompt as it was trained, or refuse it: never none at all."""

from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

import promptreg
from promptreg.errors import AttachError
from promptreg.models import from_module
from promptreg.models.anatomy import Kind, examine
from promptreg.prompts import Method, Placement, SoftPrompt, TaskType, Tensor
from registry.models.architectures import HIDDEN, VOCAB_SIZE

TOKENS = 4
SHORT = [20, 21, 22, 23]
LONG = [5, 6, 7, 8, 9, 10, 11, 12, 13]

_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GPT = {"vocab_size": VOCAB_SIZE, "n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_positions": 64}
_BART = {
    "vocab_size": VOCAB_SIZE,
    "d_model": HIDDEN,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    **_IDS,
}
_BLOOM = {"vocab_size": VOCAB_SIZE, "hidden_size": HIDDEN, "n_layer": 2, "n_head": 4, **_IDS}
_MPT = {"vocab_size": VOCAB_SIZE, "d_model": HIDDEN, "n_layers": 2, "n_heads": 4, **_IDS}
_RECURRENT = {**_SIZES, "num_hidden_layers": 3, "num_key_value_heads": 1, "lru_width": HIDDEN}
_GEMMA3N: dict[str, Any] = {
    **_SIZES,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 16,
    "vocab_size_per_layer_input": VOCAB_SIZE,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 0,
    "laurel_rank": 4,
    "altup_num_inputs": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "activation_sparsity_pattern": [0.0] * 4,
    **_IDS,
}


def build(family: str, head: str, settings: dict[str, Any], **changes: Any) -> PreTrainedModel:
    """Return a tiny model with random weights, biases and norms too."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**{**settings, **changes})
        model: PreTrainedModel = getattr(transformers, f"{family}{head}")(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.train(mode=False)
    return model


def stored(values: torch.Tensor) -> Tensor:
    data = values.detach().contiguous().numpy().tobytes()
    return Tensor(dtype="F32", shape=tuple(values.shape), data=data)


def embeddings_prompt(model: PreTrainedModel, task: TaskType | None = None) -> SoftPrompt:
    """Return a prompt whose virtual tokens are the embeddings of real ones: ``VIRTUAL``."""
    embedding: Any = model.get_input_embeddings()
    values = embedding(torch.tensor(VIRTUAL))
    return SoftPrompt(
        method=Method.PROMPT_TUNING,
        tensors={"prompt_embeddings": stored(values)},
        num_virtual_tokens=TOKENS,
        token_dim=values.shape[1],
        task_type=task,
    )


def keys_prompt(layers: int, width: int, flat: torch.Tensor | None = None) -> SoftPrompt:
    """Return a prompt of keys and values, random ones if ``flat`` [P, L * 2 * K] does not say which."""
    if flat is None:
        generator = torch.Generator().manual_seed(3)
        flat = torch.randn(TOKENS, layers * 2 * width, generator=generator)
    return SoftPrompt(
        method=Method.PREFIX_TUNING,
        tensors={"prompt_embeddings": stored(flat)},
        num_virtual_tokens=TOKENS,
        token_dim=width,
        num_layers=layers,
        placement=Placement.KEY_VALUES,
    )


def attach(model: PreTrainedModel, prompt: SoftPrompt) -> Any:
    return promptreg.attach(model, prompt, policy="unchecked")


def ragged(*, left: bool) -> dict[str, torch.Tensor]:
    """Return a batch of ``SHORT``, padded, and ``LONG``."""
    gap = [0] * (len(LONG) - len(SHORT))
    row, mask = ([*gap, *SHORT], [*gap, *[1] * len(SHORT)])
    if not left:
        row, mask = ([*SHORT, *gap], [*[1] * len(SHORT), *gap])
    return {
        "input_ids": torch.tensor([row, LONG]),
        "attention_mask": torch.tensor([mask, [1] * len(LONG)]),
    }


VIRTUAL = list(range(VOCAB_SIZE - TOKENS, VOCAB_SIZE))
CACHELESS = {
    "DistilBert": {
        "vocab_size": VOCAB_SIZE,
        "dim": HIDDEN,
        "hidden_dim": 64,
        "n_layers": 2,
        "n_heads": 4,
    },
    "DebertaV2": _SIZES,
    "Albert": {**_SIZES, "embedding_size": 16},
    "ModernBert": {**_SIZES, **_IDS, "cls_token_id": 1, "sep_token_id": 2},
    "MPNet": {**_SIZES, "pad_token_id": 1},
    "SqueezeBert": {
        **_SIZES,
        "embedding_size": HIDDEN,
        "q_groups": 1,
        "k_groups": 1,
        "v_groups": 1,
    },
    "Nystromformer": _SIZES,
    "XLM": {"vocab_size": VOCAB_SIZE, "emb_dim": HIDDEN, "n_layers": 2, "n_heads": 4},
}


@pytest.mark.parametrize("family", CACHELESS)
def test_keys_and_values_are_refused_by_an_encoder_whose_layers_take_no_cache(family: str) -> None:
    model = build(family, "ForSequenceClassification", CACHELESS[family])
    with pytest.raises(AttachError, match="read no keys and values from a cache"):
        attach(model, keys_prompt(2, HIDDEN))


def test_a_call_is_refused_whose_model_left_the_keys_and_values_unread() -> None:
    # RemBERT's layers take a cache, and its encoder hands them none.
    model = build("RemBert", "ForSequenceClassification", {**_SIZES, "input_embedding_size": 16})
    with (
        attach(model, keys_prompt(2, HIDDEN)) as prompted,
        pytest.raises(AttachError, match="2 layers of the base model read none"),
    ):
        prompted(torch.tensor([SHORT]))


@pytest.mark.parametrize(
    ("family", "settings"), [("Bloom", _BLOOM), ("Mpt", _MPT)], ids=["bloom", "mpt"]
)
@pytest.mark.parametrize("left", [True, False], ids=["left-padded", "right-padded"])
def test_a_decoder_that_classifies_gives_a_padded_row_what_it_gives_the_row_alone(
    family: str, settings: dict[str, Any], left: bool
) -> None:
    model = build(family, "ForSequenceClassification", settings, num_labels=3)
    with torch.no_grad(), attach(model, embeddings_prompt(model)) as prompted:
        batch = prompted(**ragged(left=left)).logits
    with torch.no_grad():
        for row, text in zip(batch, (SHORT, LONG), strict=True):
            alone = model(input_ids=torch.tensor([VIRTUAL + text])).logits[0]
            torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "head", "settings", "kind"),
    [
        ("Bloom", "Model", _BLOOM, Kind.DECODER),
        ("Mpt", "Model", _MPT, Kind.DECODER),
        ("OpenAIGPT", "Model", _GPT, Kind.DECODER),
        ("CodeGen", "Model", {**_GPT, "rotary_dim": 4}, Kind.DECODER),
        ("RoFormer", "ForSequenceClassification", _SIZES, Kind.ENCODER),
        ("BigBird", "ForMaskedLM", {**_SIZES, "attention_type": "original_full"}, Kind.ENCODER),
    ],
)
def test_the_kind_of_a_model_is_its_familys_whatever_its_head(
    family: str, head: str, settings: dict[str, Any], kind: Kind
) -> None:
    assert examine(build(family, head, settings)).kind is kind


def test_a_model_that_pools_its_last_token_and_names_no_limit_reads_padded_rows_as_alone() -> None:
    settings = {"vocab_size": VOCAB_SIZE, "d_model": HIDDEN, "n_layer": 2, "n_head": 4}
    model = build("XLNet", "ForSequenceClassification", {**settings, "d_inner": 48})
    assert model.config.max_position_embeddings == -1
    with torch.no_grad(), attach(model, embeddings_prompt(model)) as prompted:
        alone = prompted(torch.tensor([SHORT])).logits[0]
        for left in (True, False):
            row = prompted(**ragged(left=left)).logits[0]
            torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("Bart", "ForConditionalGeneration"),
        ("Marian", "MTModel"),
        ("Pegasus", "ForConditionalGeneration"),
        ("M2M100", "ForConditionalGeneration"),
        ("Blenderbot", "ForConditionalGeneration"),
    ],
)
def test_the_depth_and_heads_of_a_flat_encoder_decoder_are_its_decoders(
    family: str, head: str
) -> None:
    model = build(family, head, _BART)
    ids, start = torch.tensor([SHORT]), torch.tensor([[2, 40, 41]])
    prompt = keys_prompt(2, HIDDEN)
    with torch.no_grad(), attach(model, prompt) as prompted:
        found = prompted(ids, decoder_input_ids=start).logits
        generated = prompted.generate(ids, max_new_tokens=3, num_beams=1, do_sample=False)
    # As PEFT: layer i of the decoder gets what is stored for layer 2i, counting round.
    keys, values = prompted_layers(prompt, heads=2)[0]
    cache = DynamicCache()
    for layer in range(2):
        cache.update(keys, values, layer)
    with torch.no_grad():
        both = EncoderDecoderCache(cache, DynamicCache())
        expected = model(input_ids=ids, decoder_input_ids=start, past_key_values=both).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert generated.shape[0] == 1
    assert (from_module(model).num_layers, from_module(model).key_value_dim) == (2, HIDDEN)


def prompted_layers(prompt: SoftPrompt, heads: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return each layer's keys and values, each [1, heads, P, width]."""
    data = bytearray(prompt.tensors["prompt_embeddings"].data)
    layers = prompt.num_layers or 0
    flat = torch.frombuffer(data, dtype=torch.float32).reshape(TOKENS, layers, 2, heads, -1)
    both = flat.permute(1, 2, 3, 0, 4)[:, :, None]
    return [(layer[0].contiguous(), layer[1].contiguous()) for layer in both]


def test_keys_and_values_beside_left_padding_are_refused_where_the_encoder_counts_columns() -> None:
    model = build("Bart", "ForConditionalGeneration", _BART)
    with attach(model, keys_prompt(2, HIDDEN)) as prompted:
        with pytest.raises(AttachError, match="pad on the right"):
            prompted(**ragged(left=True), decoder_input_ids=torch.tensor([[2], [2]]))
        with pytest.raises(AttachError, match="pad on the right"):
            prompted.generate(**ragged(left=True))


def test_keys_and_values_leave_the_text_its_per_layer_embeddings() -> None:
    model = gemma3n()
    text = torch.tensor([SHORT])
    with torch.no_grad():
        filled: Any = model(torch.tensor([VIRTUAL]), use_cache=True).past_key_values
        expected = model(torch.tensor([VIRTUAL + SHORT])).logits[:, TOKENS:]
    flat = torch.cat(
        [joined(part) for layer in filled.layers for part in (layer.keys, layer.values)], 1
    )
    with torch.no_grad(), attach(model, keys_prompt(4, 16, flat)) as prompted:
        torch.testing.assert_close(prompted(text).logits, expected, atol=1e-4, rtol=1e-4)
        row = prompted(**ragged(left=True)).logits[:1, -len(SHORT) :]
        torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)
        with pytest.raises(AttachError, match="leaves out what each layer looks up"):
            prompted.generate(text)


def joined(part: torch.Tensor) -> torch.Tensor:
    """Return [P, heads * width] of keys [1, heads, P, width]."""
    return part[0].transpose(0, 1).reshape(TOKENS, -1)


def gemma3n() -> PreTrainedModel:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = transformers.Gemma3nForCausalLM(transformers.Gemma3nTextConfig(**_GEMMA3N))
    model.train(mode=False)
    return model


def test_virtual_tokens_are_refused_where_each_layer_looks_tokens_up_by_id() -> None:
    model = gemma3n()
    with pytest.raises(AttachError, match="virtual tokens have no ids"):
        attach(model, embeddings_prompt(model))


_STATE = {"vocab_size": VOCAB_SIZE, "hidden_size": HIDDEN, "num_hidden_layers": 2}
STATEFUL = {
    "Mamba": {**_STATE, "state_size": 4},
    "Mamba2": {**_STATE, "state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 1},
    "Rwkv": {**_STATE, "attention_hidden_size": HIDDEN},
}


@pytest.mark.parametrize("family", STATEFUL)
def test_a_model_without_attention_takes_virtual_tokens_and_no_keys(family: str) -> None:
    model = build(family, "ForCausalLM", STATEFUL[family])
    with torch.no_grad(), attach(model, embeddings_prompt(model, TaskType.CAUSAL_LM)) as prompted:
        found = prompted(torch.tensor([SHORT])).logits
        expected = model(torch.tensor([VIRTUAL + SHORT])).logits[:, TOKENS:]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(AttachError, match=r"that (keep|read) no keys"):
        attach(model, keys_prompt(2, HIDDEN))


def test_keys_and_values_are_refused_where_some_layers_keep_none() -> None:
    settings = {**_SIZES, "layer_types": ["conv", "full_attention"], "num_key_value_heads": 2}
    model = build("Lfm2", "ForCausalLM", settings)
    with pytest.raises(AttachError, match="layers that keep no keys"):
        attach(model, keys_prompt(2, 16))


def test_a_model_of_characters_has_no_place_for_virtual_tokens() -> None:
    model = build("Canine", "ForSequenceClassification", _SIZES)
    with pytest.raises(AttachError, match="no one table of input embeddings"):
        attach(model, keys_prompt(2, HIDDEN))


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({"multi_query": True}, 8),
        ({"multi_query": False}, 32),
        ({"new_decoder_architecture": True, "num_kv_heads": 2}, 32),
    ],
    ids=["one key for all heads", "a key a head", "a copy of its group's key a head"],
)
def test_the_width_of_a_falcons_keys_is_what_its_layers_keep(
    changes: dict[str, Any], width: int
) -> None:
    model = build("Falcon", "ForCausalLM", _SIZES, alibi=False, **changes)
    with torch.no_grad(), attach(model, keys_prompt(2, width)) as prompted:
        cache = prompted(torch.tensor([SHORT])).past_key_values
    assert joined(cache.layers[0].keys[:, :, :TOKENS]).shape[1] == width
    assert from_module(model).key_value_dim == width


def test_keys_and_values_are_refused_where_they_are_kept_compressed() -> None:
    settings = {
        **_SIZES,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "first_k_dense_replace": 1,
    }
    model = build("DeepseekV3", "ForCausalLM", settings)
    with pytest.raises(AttachError, match="multi-head latent attention"):
        attach(model, keys_prompt(2, HIDDEN))
    with attach(model, embeddings_prompt(model, TaskType.CAUSAL_LM)) as prompted:
        assert prompted.attached


COUNTING = {
    "Bart": {**_BART, "is_decoder": True, "is_encoder_decoder": False},
    "RecurrentGemma": {**_RECURRENT, "attention_window_size": 16, "head_dim": 8, **_IDS},
    "Rwkv": {**STATEFUL["Rwkv"], **_IDS},
}


@pytest.mark.parametrize("family", COUNTING)
def test_left_padding_is_refused_where_it_would_change_the_row(family: str) -> None:
    model = build(family, "ForCausalLM", COUNTING[family])
    with attach(model, embeddings_prompt(model, TaskType.CAUSAL_LM)) as prompted:
        with pytest.raises(AttachError, match="rows of one length"):
            prompted(**ragged(left=True))
        # generate moves every row to the right.
        with pytest.raises(AttachError, match="rows of one length"):
            prompted.generate(**ragged(left=False), max_new_tokens=2)
        alone = prompted.generate(
            torch.tensor([SHORT]), max_new_tokens=3, min_new_tokens=3, do_sample=False
        )
    mask = torch.ones(1, TOKENS + len(SHORT), dtype=torch.long)
    whole: Any = torch.tensor([VIRTUAL + SHORT])
    settings: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    bare: Any = model
    expected = bare.generate(whole, attention_mask=mask, **settings)
    assert alone[0].tolist() == expected[0, TOKENS:].tolist()


@pytest.mark.parametrize(
    ("family", "settings"),
    [("CTRL", {**_GPT, "dff": 64}), ("OpenAIGPT", _GPT)],
    ids=["ctrl", "openai-gpt"],
)
def test_a_model_that_cannot_generate_from_embeddings_says_so(
    family: str, settings: dict[str, Any]
) -> None:
    model = build(family, "LMHeadModel", settings)
    with (
        attach(model, embeddings_prompt(model)) as prompted,
        pytest.raises(AttachError, match="takes token ids alone"),
    ):
        prompted.generate(torch.tensor([SHORT]))


def test_an_encoder_that_demands_ids_still_generates_from_virtual_tokens() -> None:
    settings = {name: value for name, value in _BART.items() if name != "vocab_size"}
    sizes = {"src_vocab_size": VOCAB_SIZE, "tgt_vocab_size": VOCAB_SIZE, "langs": ["en", "de"]}
    model: Any = build("FSMT", "ForConditionalGeneration", {**settings, **sizes})
    steps: dict[str, Any] = {"max_new_tokens": 4, "num_beams": 1, "do_sample": False}
    expected = model.generate(torch.tensor([VIRTUAL + SHORT]), **steps)
    with attach(model, embeddings_prompt(model, TaskType.SEQ_2_SEQ_LM)) as prompted:
        assert prompted.generate(torch.tensor([SHORT]), **steps).tolist() == expected.tolist()
