"""Small soft prompts, and safetensors files written by hand, for tests of everything that holds prompts."""

import json
import math
from typing import Any

import numpy as np

from promptreg.bases import BaseModel
from promptreg.fingerprints import Fingerprint
from promptreg.prompts import Method, Placement, SoftPrompt, Tensor, Vote

__all__ = [
    "PEFT_METHODS",
    "base_model",
    "prompt_of",
    "raw_safetensors",
    "soft_prompt",
    "tensor",
    "tuned_prompt",
]

PEFT_METHODS = tuple(method for method in Method if method is not Method.ENSEMBLE)
"""The methods that PEFT has too."""


def tensor(*shape: int, dtype: str = "F32", seed: int = 0) -> Tensor:
    """Return a tensor of random numbers."""
    numbers = np.random.default_rng(seed).standard_normal(shape)
    if dtype == "BF16":  # the upper half of a float32
        bits = numbers.astype("<f4").view("<u4") >> np.uint32(16)
        return Tensor(dtype=dtype, shape=shape, data=bits.astype("<u2").tobytes())
    kind = "<f4" if dtype == "F32" else "<f2"
    return Tensor(dtype=dtype, shape=shape, data=numbers.astype(kind).tobytes())


def soft_prompt(tokens: int = 4, width: int = 8, *, seed: int = 0, **fields: Any) -> SoftPrompt:
    """Return a prompt-tuning prompt [tokens, width]."""
    known: dict[str, Any] = {
        "method": Method.PROMPT_TUNING,
        "tensors": {"prompt_embeddings": tensor(tokens, width, seed=seed)},
        "num_virtual_tokens": tokens,
        "token_dim": width,
    }
    return SoftPrompt(**(known | fields))


def tuned_prompt(tokens: int = 4, width: int = 8, *, seed: int = 0, **fields: Any) -> SoftPrompt:
    """Return a prompt-tuning prompt [tokens, width] with its task embedding."""
    tensors = {
        "prompt_embeddings": tensor(tokens, width, seed=seed),
        "task_embedding": tensor(tokens, width, seed=seed + 1000),
    }
    return soft_prompt(tokens, width, **({"tensors": tensors} | fields))


def prompt_of(method: Method, **fields: Any) -> SoftPrompt:
    """Return a prompt of ``method`` with 4 tokens for a base model 8 wide with 3 layers."""
    if method is Method.PREFIX_TUNING:
        fields = {
            "tensors": {"prompt_embeddings": tensor(4, 3 * 2 * 8)},
            "num_layers": 3,
            "placement": Placement.KEY_VALUES,
        } | fields
    elif method is Method.MULTITASK_PROMPT_TUNING:
        tensors = {
            "prompt_embeddings": tensor(4, 8),
            "prefix_task_cols": tensor(2, 4, 1, seed=1),
            "prefix_task_rows": tensor(2, 1, 8, seed=2),
        }
        fields = {"tensors": tensors} | fields
    elif method is Method.ENSEMBLE:
        tensors = {
            "members.0.prompt_embeddings": tensor(3, 8),
            "members.1.prompt_embeddings": tensor(1, 8, seed=1),
        }
        fields = {
            "tensors": tensors,
            "members": ("sst2@3", "sst2@5"),
            "vote": Vote.MAJORITY,
        } | fields
    return soft_prompt(method=method, **fields)


def base_model(**fields: Any) -> BaseModel:
    """Return what is known of a base model 8 wide with 3 layers."""
    known: dict[str, Any] = {
        "fingerprint": Fingerprint("bfp1:" + "0123456789abcdef" * 4),
        "embedding": "a" * 64,
        "body": "b" * 64,
        "architecture": "LlamaForCausalLM",
        "model_type": "llama",
        "token_dim": 8,
        "vocab_size": 32,
        "num_layers": 3,
        "key_value_dim": 8,
        "parameters": 1000,
        "dtype": "F32",
        "name": "acme/tiny",
        "source": "acme/tiny-llama",
        "revision": "main",
    }
    return BaseModel(**(known | fields))


def raw_safetensors(header: object, body: bytes | None = None) -> bytes:
    """Return a safetensors file with any header at all, as an attacker would write it.

    Args:
        header: The header: bytes as they are, anything else as JSON.
        body: The tensors' bytes; by default as many zeros as the header's shapes say.
    """
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    if body is None:
        entries = json.loads(text).items()
        sizes = {"F32": 4, "F16": 2, "BF16": 2}
        body = bytes(
            sum(math.prod(e["shape"]) * sizes[e["dtype"]] for n, e in entries if n[0] != "_")
        )
    return len(text).to_bytes(8, "little") + text + body
