"""Prompts and a base model of the size that the figures speak of."""

import random
from array import array

from promptreg import BaseModel, Method, SoftPrompt, TaskType, Tensor
from promptreg.fingerprints import Part, TensorRecord, WeightTable

TOKENS, WIDTH = 100, 640


def prompt(seed: int) -> SoftPrompt:
    """Return a prompt of 100 x 640 float32 numbers, the same for the same seed."""
    source = random.Random(seed)  # noqa: S311
    data = array("f", (source.uniform(-0.5, 0.5) for _ in range(TOKENS * WIDTH))).tobytes()
    return SoftPrompt(
        method=Method.PROMPT_TUNING,
        tensors={"prompt_embeddings": Tensor(dtype="F32", shape=(TOKENS, WIDTH), data=data)},
        num_virtual_tokens=TOKENS,
        token_dim=WIDTH,
        task_type=TaskType.CAUSAL_LM,
        hyperparameters={"lr": 0.3, "steps": 200, "seed": seed},
    )


def base() -> BaseModel:
    """Return the description of a base model with Gemma 3 270M's 236 tensors."""
    records = [
        TensorRecord(
            name="embed_tokens.weight",
            part=Part.EMBEDDING,
            dtype="BF16",
            shape=(262144, WIDTH),
            digest="0" * 64,
        )
    ]
    records += [
        TensorRecord(
            name=f"layers.{index}.weight",
            part=Part.BODY,
            dtype="BF16",
            shape=(WIDTH, WIDTH),
            digest=f"{index:064x}",
        )
        for index in range(235)
    ]
    table = WeightTable(records=tuple(records))
    return BaseModel(
        fingerprint=table.fingerprint,
        embedding=table.part(Part.EMBEDDING) or "",
        body=table.part(Part.BODY) or "",
        architecture="Gemma3ForCausalLM",
        model_type="gemma3_text",
        token_dim=WIDTH,
        vocab_size=262144,
        num_layers=18,
        key_value_dim=256,
        parameters=268098176,
        dtype="BF16",
        name="bench",
        table=table,
    )
