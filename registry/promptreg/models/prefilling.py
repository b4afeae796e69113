"""Key/value caches that begin with a prompt's keys and values, beside each row's own text.

transformers puts the keys of new tokens behind those that a cache holds. Under left padding that would leave
padding between a prompt and its text, and a sliding window would count it. So the prompt's keys wait beside the
cache, and are merged with the text's when each layer's first ones arrive. From then on it is an ordinary cache.
"""

import threading
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, StaticCache

from promptreg.errors import AttachError
from promptreg.models.virtual import KeyValues

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.cache_utils import Cache

    from promptreg.models.placing import Layout

    _Base = Cache
else:
    _Base = object

__all__ = [
    "PrefilledDynamicCache",
    "PrefilledStaticCache",
    "StaticCaches",
    "begins_prefilled",
    "check_read",
]

_STEP = 32  # columns: calls of nearly one length share a cache


class _Prefilled(_Base):
    """What makes a cache begin with a prompt."""

    _layout: "Layout"
    _waiting: dict[int, tuple[Tensor, Tensor]]

    def prefill(self, key_values: KeyValues, layout: "Layout") -> None:
        """Let the cache begin with a prompt.

        Args:
            key_values: For each layer, keys and values [heads, P, width], or [B, heads, P, width] if each row
                has its own.
            layout: How prompt and text stand beside each other.
        """
        self._layout = layout
        # Layers at the end may read an earlier layer's keys (Gemma 3n): they have no place of their own here.
        own = len(self.layers) or len(key_values)
        self._waiting = dict(enumerate(key_values[:own]))

    @property
    def unread(self) -> int:
        """How many layers have not taken their part of the prompt."""
        return len(self._waiting)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add keys and values [B, heads, T, width] to layer ``layer_idx``; return all that it has."""
        prompt = self._waiting.pop(layer_idx, None)
        if prompt is not None:
            key_states = _merge(prompt[0], key_states, self._layout)
            value_states = _merge(prompt[1], value_states, self._layout)
        both: tuple[Tensor, Tensor] = super().update(
            key_states, value_states, layer_idx, *args, **kwargs
        )
        return both

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens came before the next one: the prompt counts from the start."""
        if layer_idx in self._waiting:
            return self._layout.virtual
        return super().get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return how many keys attention will see, and which is the first."""
        if layer_idx in self._waiting:
            query_length += self._layout.virtual
        return super().get_mask_sizes(query_length, layer_idx)


class PrefilledDynamicCache(_Prefilled, DynamicCache):
    """A growing cache that begins with a prompt."""


class PrefilledStaticCache(_Prefilled, StaticCache):
    """A cache of a fixed size that begins with a prompt.

    Attributes:
        key: What it can be used for again: its width, and the shape of the batch.
    """

    key: tuple[int, ...] = ()


class StaticCaches:
    """The static cache of the last call, for the next one of the same shape.

    A compiled decoder is recorded with the addresses of its cache: another one would be recorded anew.
    """

    def __init__(self) -> None:
        self._key: tuple[int, ...] = ()
        self._cache: PrefilledStaticCache | None = None
        self._lock = threading.Lock()

    def lend(self, config: "PretrainedConfig", width: int, *shape: int) -> PrefilledStaticCache:
        """Return an empty cache for ``width`` columns or a few more, which nobody else has."""
        width = -(-width // _STEP) * _STEP
        with self._lock:
            cache, self._cache = self._cache, None
            fits = self._key == (width, *shape)
        if cache is None or not fits:
            cache = PrefilledStaticCache(config, width)
            cache.key = (width, *shape)
        else:
            cache.reset()  # type: ignore[no-untyped-call]
        return cache

    def give_back(self, cache: object) -> None:
        """Keep ``cache``, if it is one of these and its caller is done with it, for the next call."""
        if isinstance(cache, PrefilledStaticCache):
            with self._lock:
                self._cache, self._key = cache, cache.key


def begins_prefilled(cache: object) -> bool:
    """Return whether keys and values at hand may stand at the start of ``cache``: if we make it, or made it."""
    return cache is None or isinstance(cache, _Prefilled)


def check_read(cache: object) -> None:
    """Return if the base model read the prompt that its cache began with.

    Args:
        cache: What the base model was called with as its cache; one without a prompt passes.

    Raises:
        AttachError: Some of its layers take no cache, so that they ran without their prompt.
    """
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    if isinstance(cache, _Prefilled) and cache.unread:
        raise AttachError(
            f"the prompt is keys and values, and {cache.unread} layers of the base model read none from a "
            "cache: they ran without their prompt",
            "use a prompt of embeddings (prompt tuning) on this model",
        )


def _merge(prompt: Tensor, text: Tensor, layout: "Layout") -> Tensor:
    """Return [B, heads, S, width] The prompt's keys and the text's, in the order of the layout.

    Args:
        prompt: [heads, P, width], or [B, heads, P, width].
        text: [B, heads, S - P, width]; B may be a multiple of the layout's (beams).
        layout: The layout.
    """
    prompt = prompt.to(text)
    if prompt.ndim == 3:  # noqa: PLR2004
        prompt = prompt.expand(len(text), -1, -1, -1)
    else:
        prompt = prompt.repeat_interleave(len(text) // len(prompt), dim=0)
    merged = torch.cat([prompt, text], dim=2)
    order = layout.key_value_order()
    if order is None:
        return merged
    order = order.repeat_interleave(len(text) // len(order), dim=0)  # [B, S]
    rows = torch.arange(len(text), device=text.device)[:, None]
    return merged.transpose(1, 2)[rows, order].transpose(1, 2)
