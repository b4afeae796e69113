"""Small values for tests that need any prompt and any base model, without torch."""

import random
from array import array
from typing import Any

from promptreg.bases import BaseModel
from promptreg.fingerprints import Part, TensorRecord, WeightTable
from promptreg.prompts import Method, SoftPrompt, TaskType, Tensor

__all__ = ["base_model", "soft_prompt"]


def soft_prompt(seed: int = 0, *, tokens: int = 3, width: int = 8, **fields: Any) -> SoftPrompt:
    """Return a [tokens, width] prompt, the same for the same seed."""
    source = random.Random(seed)
    numbers = array("f", (source.uniform(-0.5, 0.5) for _ in range(tokens * width)))
    tensor = Tensor(dtype="F32", shape=(tokens, width), data=numbers.tobytes())
    fields.setdefault("task_type", TaskType.CAUSAL_LM)
    return SoftPrompt(
        method=Method.PROMPT_TUNING,
        tensors={"prompt_embeddings": tensor},
        num_virtual_tokens=tokens,
        token_dim=width,
        **fields,
    )


def base_model(
    seed: int = 0,
    *,
    width: int = 8,
    layers: int = 2,
    key_value_dim: int = 8,
    name: str | None = None,
    encoder_decoder: bool = False,
) -> BaseModel:
    """Return the description of a base model, another one for each seed."""
    records = [_record("embed_tokens.weight", Part.EMBEDDING, (16, width), seed)]
    records += [
        _record(f"layers.{i}.weight", Part.BODY, (width, width), seed + i) for i in range(layers)
    ]
    table = WeightTable(records=tuple(records))
    return BaseModel(
        fingerprint=table.fingerprint,
        embedding=table.part(Part.EMBEDDING) or "",
        body=table.part(Part.BODY) or "",
        architecture="LlamaForCausalLM",
        model_type="llama",
        encoder_decoder=encoder_decoder,
        token_dim=width,
        vocab_size=16,
        num_layers=layers,
        key_value_dim=key_value_dim,
        parameters=16 * width + layers * width * width,
        dtype="F32",
        name=name,
        table=table,
    )


def _record(name: str, part: Part, shape: tuple[int, ...], seed: int) -> TensorRecord:
    digest = f"{seed:064x}"
    return TensorRecord(name=name, part=part, dtype="F32", shape=shape, digest=digest)
