"""How many layers of a model keep keys and values, and how wide those are, as its config tells."""

from typing import Any

__all__ = ["count_layers", "decoder_config", "is_latent", "key_value_heads"]


def decoder_config(config: Any) -> Any:
    """Return the part of ``config`` that is about the text, of the decoder if there are two stacks."""
    nested = getattr(config, "decoder", None) or getattr(config, "text_config", None)
    if getattr(config, "is_encoder_decoder", False) and nested is None:
        # BART's family has one flat config. transformers would make a copy of it in which what both stacks
        # have, layers and heads, is a default's.
        return config
    return config.get_text_config(decoder=True)


def count_layers(config: Any) -> int:
    """Return the number of layers (of the decoder); 0 if ``config`` does not tell."""
    return _first(config, "num_decoder_layers", "decoder_layers", "num_hidden_layers")


def key_value_heads(config: Any) -> tuple[int, int]:
    """Return (heads, width) of a layer's keys and values; (0, 0) if ``config`` tells of none."""
    heads = _first(
        config, "decoder_attention_heads", "num_decoder_attention_heads", "num_attention_heads"
    )
    if not heads or is_latent(config):
        return 0, 0
    width = _first(config, "head_dim", "d_kv") or config.hidden_size // heads
    if _is_multi_query(config):
        return 1, width
    return _first(config, "num_key_value_heads") or heads, width


def is_latent(config: Any) -> bool:
    """Return whether keys and values are made from one compressed vector (MLA), and differ in width."""
    return bool(getattr(config, "kv_lora_rank", None))


def _is_multi_query(config: Any) -> bool:
    """Return whether all query heads share one key.

    Falcon's ``num_kv_heads`` does not tell: it is not used then, and in its newer architecture each query head
    keeps a copy of its group's key.
    """
    newer = getattr(config, "new_decoder_architecture", False)
    return bool(getattr(config, "multi_query", False)) and not newer


def _first(config: Any, *names: str) -> int:
    """Return the first of these settings that ``config`` has a number for, else 0."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), 0)
