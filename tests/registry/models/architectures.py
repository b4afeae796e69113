"""The architecture matrix: tiny models of the families that promptreg is proved over, made from configs.

V is 96 tokens, H is 32, L is 2 layers or 4, and there are 4 heads, with 2 key/value heads in some families.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["ARCHITECTURES", "VOCAB_SIZE", "Architecture", "make"]

# The models are too small to gain from threads, and the tests run beside each other.
torch.set_num_threads(1)
_logging: Any = transformers.utils.logging
_logging.disable_progress_bar()

VOCAB_SIZE = 96
HIDDEN = 32

_LLAMA = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One family of the matrix.

    Attributes:
        name: What the tests call it.
        config: The config's class, by its name in ``transformers``.
        model: The class with a head, by its name there.
        backbone: The class without one.
        kind: What the model does with its input.
        tied: Whether its output head is its input embedding.
        settings: What its config is made with.
        others: Further classes with another head on the same backbone.
    """

    name: str
    config: str
    model: str
    backbone: str
    kind: Literal["causal", "encoder-decoder", "encoder"] = "causal"
    tied: bool
    settings: Mapping[str, Any] = field(repr=False)
    others: tuple[str, ...] = ()

    def make_config(self, **changes: object) -> PretrainedConfig:
        """Return its config, with ``changes``."""
        config: PretrainedConfig = getattr(transformers, self.config)(
            **{**self.settings, **changes}
        )
        return config


def make(
    name: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    as_class: str | None = None,
    **changes: object,
) -> PreTrainedModel:
    """Return the tiny model ``name``: random weights (biases and norms too), in evaluation mode.

    Args:
        name: A key of ``ARCHITECTURES``.
        seed: What its weights are drawn from: the same seed gives the same weights.
        dtype: What its weights are rounded to.
        as_class: The class to build, by its name in ``transformers``; the one with a head if None.
        changes: Changes to its config.
    """
    architecture = ARCHITECTURES[name]
    build = getattr(transformers, as_class or architecture.model)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model: PreTrainedModel = build(architecture.make_config(dtype=dtype, **changes))
    torch.nn.Module.to(model, dtype)
    if not architecture.tied:
        _untie(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Norms and biases start out equal in every layer: with values of their own, tests see them swapped.
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_((0.02 * noise).to(dtype))
    model.train(mode=False)
    return model


def _untie(model: Any) -> None:
    """Give a head that the family ties a weight of its own: T5 ties whatever its config says, v1.1 too."""
    head = model.get_output_embeddings()
    if head is not None and head.weight is model.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        model.all_tied_weights_keys.pop("lm_head.weight")


_ALL = (
    Architecture(
        name="gpt2",
        config="GPT2Config",
        model="GPT2LMHeadModel",
        backbone="GPT2Model",
        tied=True,
        settings={
            "vocab_size": VOCAB_SIZE,
            "n_embd": HIDDEN,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 128,
            **_TOKENS,
        },
        others=("GPT2ForSequenceClassification",),
    ),
    Architecture(
        name="opt",
        config="OPTConfig",
        model="OPTForCausalLM",
        backbone="OPTModel",
        tied=True,
        settings={
            "vocab_size": VOCAB_SIZE,
            "hidden_size": HIDDEN,
            "word_embed_proj_dim": HIDDEN,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            **_TOKENS,
        },
        others=("OPTForSequenceClassification",),
    ),
    Architecture(
        name="llama",
        config="LlamaConfig",
        model="LlamaForCausalLM",
        backbone="LlamaModel",
        tied=False,
        settings={**_LLAMA, "tie_word_embeddings": False, **_TOKENS},
        others=("LlamaForSequenceClassification",),
    ),
    Architecture(
        name="gemma3",
        config="Gemma3TextConfig",
        model="Gemma3ForCausalLM",
        backbone="Gemma3TextModel",
        tied=True,
        settings={
            **_LLAMA,
            "num_hidden_layers": 4,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 8,
            "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
            "tie_word_embeddings": True,
            **_TOKENS,
        },
    ),
    Architecture(
        name="qwen3",
        config="Qwen3Config",
        model="Qwen3ForCausalLM",
        backbone="Qwen3Model",
        tied=True,
        settings={**_LLAMA, "head_dim": 8, "tie_word_embeddings": True, **_TOKENS},
        others=("Qwen3ForSequenceClassification",),
    ),
    Architecture(
        name="t5",
        config="T5Config",
        model="T5ForConditionalGeneration",
        backbone="T5Model",
        kind="encoder-decoder",
        tied=False,
        settings={
            "vocab_size": VOCAB_SIZE,
            "d_model": HIDDEN,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "decoder_start_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
    ),
    Architecture(
        name="bert",
        config="BertConfig",
        model="BertForSequenceClassification",
        backbone="BertModel",
        kind="encoder",
        tied=False,
        settings={
            "vocab_size": VOCAB_SIZE,
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "num_labels": 3,
            "pad_token_id": 0,
        },
        others=("BertForMaskedLM",),
    ),
    Architecture(
        name="mixtral",
        config="MixtralConfig",
        model="MixtralForCausalLM",
        backbone="MixtralModel",
        tied=False,
        settings={
            **_LLAMA,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "tie_word_embeddings": False,
            **_TOKENS,
        },
        others=("MixtralForSequenceClassification",),
    ),
)
ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in _ALL}
"""The matrix, by name."""
