"""Prompts of several lengths and methods for one tiny model, and what each row gets alone, by other means."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

import promptreg
from promptreg import Method, Placement, PromptedModel, SoftPrompt
from promptreg import Tensor as StoredTensor
from promptreg.models.anatomy import examine

__all__ = ["alone", "attach_all", "make_prompts", "to_torch"]


def make_prompts(model: PreTrainedModel, *, prefix: bool = True) -> dict[str, SoftPrompt]:
    """Return prompts of all methods for ``model``, by name.

    Args:
        model: The base model.
        prefix: Whether it takes prompts of keys and values.
    """
    width = examine(model).token_dim
    made = {
        "short": _prompt(Method.PROMPT_TUNING, 3, width),
        "long": _prompt(Method.PROMPT_TUNING, 11, width),
        "p-tuned": _prompt(Method.P_TUNING, 6, width),
        "behind": _prompt(Method.PROMPT_TUNING, 4, width, placement=Placement.AFTER_BOS),
    }
    if prefix:
        shapes = examine(model).key_values
        made["prefix"] = _prompt(
            Method.PREFIX_TUNING,
            5,
            sum(2 * heads * size for heads, size in shapes),
            placement=Placement.KEY_VALUES,
            token_dim=shapes[0][0] * shapes[0][1],
            num_layers=len(shapes),
        )
    return made


def attach_all(model: PreTrainedModel, prompts: dict[str, SoftPrompt], **how: Any) -> PromptedModel:
    """Return ``model`` with all ``prompts`` under their names."""
    prompted = promptreg.attach(model, policy="unchecked", **how)
    for name, prompt in prompts.items():
        prompted.add(prompt, name=name)
    return prompted


def to_torch(prompt: SoftPrompt) -> Tensor:
    """Return [P, ...] The prompt's tensor."""
    stored = prompt.tensors["prompt_embeddings"]
    return torch.frombuffer(bytearray(stored.data), dtype=torch.float32).reshape(stored.shape)


@torch.no_grad()
def alone(model: PreTrainedModel, prompt: SoftPrompt | None, ids: Tensor, **more: Any) -> Tensor:
    """Return [1, T, V] The logits of a text [1, T] behind a prompt, put together by hand."""
    bare: Any = model
    if prompt is None:
        return bare(input_ids=ids, **more).logits  # type: ignore[no-any-return]
    if prompt.method is Method.PREFIX_TUNING:
        cache = _cache_of(model, prompt)
        return bare(input_ids=ids, past_key_values=cache, **more).logits  # type: ignore[no-any-return]
    virtual = to_torch(prompt)[None]
    text = bare.get_input_embeddings()(ids)
    if prompt.placement is Placement.AFTER_BOS:
        order = [text[:, :1], virtual, text[:, 1:]]
        places = [0, *range(virtual.shape[1] + 1, virtual.shape[1] + ids.shape[1])]
    else:
        order = [virtual, text]
        places = list(range(virtual.shape[1], virtual.shape[1] + ids.shape[1]))
    logits: Tensor = bare(inputs_embeds=torch.cat(order, dim=1), **more).logits
    return logits if "decoder_input_ids" in more or logits.ndim == 2 else logits[:, places]


def _cache_of(model: PreTrainedModel, prompt: SoftPrompt) -> Any:
    """Return a cache that holds a prompt of keys and values."""
    cache = DynamicCache()
    values = to_torch(prompt)
    layers = len(examine(model).key_values)
    stored = values.reshape(len(values), layers, 2, -1)  # [P, L, 2, K]
    both: Any = model.config.is_encoder_decoder
    for layer, (heads, width) in enumerate(examine(model).key_values):
        # PEFT's order of an encoder-decoder's layers.
        own = stored[:, 2 * layer % layers if both else layer]
        keys, held = own.reshape(len(own), 2, heads, width).permute(1, 2, 0, 3)[:, None]
        cache.update(keys, held, layer)
    return EncoderDecoderCache(cache, DynamicCache()) if both else cache


def _prompt(method: Method, tokens: int, width: int, **fields: Any) -> SoftPrompt:
    numbers = np.random.default_rng(tokens).standard_normal((tokens, width)).astype("<f4")
    tensor = StoredTensor(dtype="F32", shape=numbers.shape, data=numbers.tobytes())
    known: dict[str, Any] = {"token_dim": width} | fields
    return SoftPrompt(
        method=method,
        tensors={"prompt_embeddings": tensor},
        num_virtual_tokens=tokens,
        **known,
    )
