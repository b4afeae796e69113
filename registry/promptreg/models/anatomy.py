"""What the loader must know of a transformers model before it puts a prompt in front of it."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from promptreg.errors import AttachError
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
        key_values: For each layer (of the decoder, if there are two stacks) the number of its key/value heads
            and their width.
        window: How many tokens it can read at once; None if nothing bounds it.
        learned_positions: Whether the window is a table of positions, past whose end nothing runs at all.
        pooled: Whether it gives one output for a whole row (a sequence classifier).
        accepts: The arguments that its forward pass names.
    """

    model: "PreTrainedModel"
    call: nn.Module
    kind: Kind
    token_dim: int
    vocab_size: int
    key_values: tuple[tuple[int, int], ...]
    window: int | None
    learned_positions: bool
    pooled: bool
    accepts: frozenset[str] = field(repr=False)

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
    embedding = base.get_input_embeddings()
    window, learned = _window(base, modules)
    return Anatomy(
        model=base,
        call=model if isinstance(model, nn.Module) and hasattr(model, "_orig_mod") else base,
        kind=_kind(base, modules),
        token_dim=int(getattr(embedding, "embedding_dim", None) or embedding.weight.shape[-1]),
        vocab_size=int(getattr(embedding, "num_embeddings", None) or embedding.weight.shape[0]),
        key_values=_key_values(base.config.get_text_config(decoder=True)),
        window=window,
        learned_positions=learned,
        pooled="SequenceClassification" in type(base).__name__,
        accepts=frozenset(inspect.signature(base.forward).parameters),
    )


def _is_adapter(module: nn.Module) -> bool:
    # By name, so that PEFT need not be installed: its adapters' layers live in these packages.
    return type(module).__module__.startswith("peft.tuners.")


def _kind(model: Any, modules: Sequence[tuple[str, nn.Module]]) -> Kind:
    """Tell the kind by what the attention layers do: a config's ``is_decoder`` is False for Llama."""
    if model.config.is_encoder_decoder:
        return Kind.ENCODER_DECODER
    # Asked of its own attributes: hasattr on a module without it goes a long way round.
    flags = [vars(module)["is_causal"] for _, module in modules if "is_causal" in vars(module)]
    causal = any(flags) if flags else model.can_generate()
    if causal and getattr(model.config, "is_causal", True):
        return Kind.DECODER
    return Kind.ENCODER


def _key_values(config: Any) -> tuple[tuple[int, int], ...]:
    """Return (heads, width) of every layer's keys."""
    layers = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None)
    count: int = layers or config.num_hidden_layers
    per_layer = getattr(config, "per_layer_config", None)
    configs = list(per_layer) if per_layer is not None and len(per_layer) == count else [config]
    shapes = tuple(_heads(layer) for layer in configs)
    return shapes * count if len(shapes) == 1 else shapes


def _heads(config: Any) -> tuple[int, int]:
    heads = getattr(config, "decoder_attention_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return getattr(config, "num_key_value_heads", None) or heads, width


def _window(model: Any, modules: Sequence[tuple[str, nn.Module]]) -> tuple[int | None, bool]:
    """Return how many tokens ``model`` reads at once, and whether that is a table of learned positions."""
    config = model.config.get_text_config()
    window = getattr(config, "max_position_embeddings", None)
    if window is None:
        return None, False
    tables = [
        module
        for name, module in modules
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _POSITION_TABLES
    ]
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


_POSITION_TABLES = {"wpe", "embed_positions", "position_embeddings"}
