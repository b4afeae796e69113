"""What the loader must know of a transformers model before it puts a prompt in front of it."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from promptreg.errors import AttachError
from promptreg.models.key_shapes import count_layers, decoder_config, is_latent, key_value_heads
from promptreg.models.live import unwrap

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Anatomy", "Kind", "examine"]


class Kind(StrEnum):
    """How a base model reads its input."""

    DECODER = "decoder"
    """Each token sees the tokens before it: GPT-2, Llama, Gemma."""
    ENCODER = "encoder"
    """Each token sees all tokens: BERT."""
    ENCODER_DECODER = "encoder-decoder"
    """An encoder reads, a decoder writes: T5."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Anatomy:
    """A base model as the loader sees it.

    Attributes:
        model: The transformers model itself, without wrappers.
        call: What a forward pass goes through: the model, or its compiled form.
        kind: How it reads its input.
        token_dim: The width H of its input embedding.
        vocab_size: How many token ids its input embedding knows.
        window: How many tokens it can read at once; None if nothing bounds it.
        learned_positions: Whether the window is a table of positions, past whose end nothing runs at all.
        counts_padding: Whether padding in front of a row's text changes what the model makes of the text, even
            though the attention mask leaves it out.
        pooled: Whether it gives one output for a whole row (a sequence classifier).
        accepts: The arguments that its forward pass names.
    """

    model: "PreTrainedModel"
    call: nn.Module
    kind: Kind
    token_dim: int
    vocab_size: int
    window: int | None
    learned_positions: bool
    counts_padding: bool
    pooled: bool
    accepts: frozenset[str] = field(repr=False)

    @property
    def key_values(self) -> tuple[tuple[int, int], ...]:
        """For each layer (of the decoder, if there are two stacks) its key/value heads and their width.

        Raises:
            AttachError: The model does not keep keys and values that a prompt could be.
        """
        return _key_values(self.model)

    @property
    def per_layer_embeddings(self) -> bool:
        """Whether each layer looks tokens up by their ids once more (Gemma 3n)."""
        return bool(getattr(decoder_config(self.model.config), "hidden_size_per_layer_input", None))

    @property
    def wants_rows_alike(self) -> bool:
        """Whether the rows of a batch must be of one length, prompt and text each: there must be no padding."""
        return self.kind is Kind.DECODER and self.counts_padding

    @property
    def counts_columns(self) -> bool:
        """Whether a decoder takes a token's column for its position, whatever the mask, and cannot be told."""
        tables = any(
            name.rpartition(".")[2] in _POSITION_TABLES for name, _ in self.model.named_modules()
        )
        return "position_ids" not in self.accepts and tables

    @property
    def embedding(self) -> nn.Module:
        """The module that turns token ids [B, T] into vectors [B, T, H], scaled if the model scales them."""
        module: nn.Module = self.model.get_input_embeddings()
        return module

    @property
    def device(self) -> torch.device:
        """Where the embedding is, and so where a prompt belongs."""
        weight = getattr(self.embedding, "weight", None)
        return weight.device if isinstance(weight, torch.Tensor) else self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What the embedding gives out, and so what a prompt is made of."""
        weight = getattr(self.embedding, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.dtype.is_floating_point:
            return weight.dtype
        # The weight of a quantised embedding is integers; what it gives out is of the model's dtype.
        return self.model.dtype


def examine(model: object) -> Anatomy:
    """Return what the loader must know of ``model``.

    Args:
        model: A transformers model, possibly compiled, data-parallel or wrapped by PEFT for prompt learning.

    Raises:
        UnreadableBaseModelError: It is something else.
        AttachError: PEFT adapters are in its layers, so that it is no longer the base model.
    """
    base: Any = unwrap(model)
    modules = list(base.named_modules())
    if any(_is_adapter(module) for _, module in modules):
        raise AttachError(
            f"this {type(base).__name__} carries PEFT adapters in its layers, so it is not the base model",
            "take them out with PeftModel.unload(), or load the base model again",
        )
    embedding = _embedding(base)
    window, learned = _window(base, modules)
    kind = _kind(base, modules)
    accepts = frozenset(inspect.signature(base.forward).parameters)
    return Anatomy(
        model=base,
        call=model if isinstance(model, nn.Module) and hasattr(model, "_orig_mod") else base,
        kind=kind,
        token_dim=int(getattr(embedding, "embedding_dim", None) or embedding.weight.shape[-1]),
        vocab_size=int(getattr(embedding, "num_embeddings", None) or embedding.weight.shape[0]),
        window=window,
        learned_positions=learned,
        counts_padding=_counts_padding(base, kind, modules, accepts),
        pooled="SequenceClassification" in type(base).__name__,
        accepts=accepts,
    )


def _embedding(model: Any) -> Any:
    try:
        embedding = model.get_input_embeddings()
    except NotImplementedError:
        embedding = None
    if embedding is None:
        raise AttachError(
            f"a {type(model).__name__} has no one table of input embeddings, so no place for virtual tokens",
            "attach the prompt to a model that reads token ids",
        )
    return embedding


def _is_adapter(module: nn.Module) -> bool:
    # By name, so that PEFT need not be installed: its adapters' layers live in these packages.
    return type(module).__module__.startswith("peft.tuners.")


def _kind(model: Any, modules: Sequence[tuple[str, nn.Module]]) -> Kind:
    """Tell the kind by what the attention layers do: a config's ``is_decoder`` is False for Llama."""
    if model.config.is_encoder_decoder:
        return Kind.ENCODER_DECODER
    # Asked of its own attributes: hasattr on a module without it goes a long way round.
    flags = [vars(module)["is_causal"] for _, module in modules if "is_causal" in vars(module)]
    causal = any(flags) if flags else _is_language_model(model)
    if causal and getattr(model.config, "is_causal", True):
        return Kind.DECODER
    return Kind.ENCODER


def _is_language_model(model: Any) -> bool:
    """Tell by the family, whatever head this one carries: a Bloom that classifies reads as Bloom does."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = model.config
    if getattr(config, "attn_type", None) == "bi":  # XLNet: each token sees all
        return False
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return bool(getattr(config, "is_decoder", True) and getattr(config, "causal", True))
    return bool(model.can_generate())


def _key_values(model: Any) -> tuple[tuple[int, int], ...]:
    """Return (heads, width) of every layer's keys."""
    config = decoder_config(model.config)
    _check_keeps_keys(model, config)
    count = count_layers(config)
    per_layer = getattr(config, "per_layer_config", None)
    configs = list(per_layer) if per_layer is not None and len(per_layer) == count else [config]
    shapes = tuple(key_value_heads(layer) for layer in configs)
    return shapes * count if len(shapes) == 1 else shapes


def _check_keeps_keys(model: Any, config: Any) -> None:
    """Return if every layer of ``model`` attends to one key and value of the same width for each token."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    others = sorted({kind for kind in kinds or () if kind not in _ATTENTION_LAYERS})
    if is_latent(config):
        reason = "keeps compressed keys and values (multi-head latent attention)"
    elif others:
        reason = f"has layers that keep no keys ({', '.join(others)})"
    elif key_value_heads(config) == (0, 0) or not _reads_cache(model):
        reason = "has layers that read no keys and values from a cache"
    else:
        return
    raise AttachError(
        f"the prompt is keys and values (prefix tuning), and a {type(model).__name__} {reason}",
        "use a prompt of embeddings (prompt tuning) on this model",
    )


def _reads_cache(model: Any) -> bool:
    """Return whether some layer takes a cache; that the whole model does means nothing in an encoder."""
    from transformers import PreTrainedModel

    kinds = {type(module) for module in model.modules() if not isinstance(module, PreTrainedModel)}
    return any(_CACHES & inspect.signature(kind.forward).parameters.keys() for kind in kinds)


def _window(model: Any, modules: Sequence[tuple[str, nn.Module]]) -> tuple[int | None, bool]:
    """Return how many tokens ``model`` reads at once, and whether that is a table of learned positions."""
    config = model.config.get_text_config()
    window = getattr(config, "max_position_embeddings", None)
    if window is None or window < 0:  # XLNet says -1
        return None, False
    tables = _position_tables(modules)
    if tables:
        # RoBERTa's family counts positions from behind the padding's, so as many rows of the table are lost.
        lost = max(
            table.padding_idx + 1 if table.padding_idx is not None else 0 for table in tables
        )
        return int(window) - lost, True
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, Mapping) and rope.get("rope_type") == "dynamic":
        return None, False
    return int(window), False


def _position_tables(modules: Sequence[tuple[str, nn.Module]]) -> list[nn.Embedding]:
    return [
        module
        for name, module in modules
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _POSITION_TABLES
    ]


def _counts_padding(
    model: Any, kind: Kind, modules: Sequence[tuple[str, nn.Module]], accepts: frozenset[str]
) -> bool:
    """Return whether padding in front of a row reaches the row's own outputs."""
    if kind is Kind.ENCODER:
        return False  # its padding is moved behind the text
    if model.config.model_type in _RECURRENT:
        return True
    # Such a model takes a token's column for its position (BART), unless it can be told otherwise (OPT).
    return "position_ids" not in accepts and bool(_position_tables(modules))


_POSITION_TABLES = {"wpe", "embed_positions", "position_embeddings"}
_ATTENTION_LAYERS = {
    "attention",
    "chunked_attention",
    "full_attention",
    "sliding_attention",
}
_CACHES = {"layer_past", "past_key_value", "past_key_values"}
# Their state runs over a row's padding, whatever its mask and its positions.
_RECURRENT = {"recurrent_gemma", "rwkv"}
