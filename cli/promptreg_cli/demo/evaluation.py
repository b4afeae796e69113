"""What a model answers, with a soft prompt and without, by plain transformers."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from promptreg_cli.demo import words
from promptreg_cli.demo.tasks import ARROW

__all__ = ["accuracy", "answers", "held_out_texts"]


def held_out_texts(pairs: int = 75) -> tuple[str, ...]:
    """Return every held-out word, and ``pairs`` texts of two of them."""
    rng = random.Random(0)  # noqa: S311 - the same texts each time
    held_out = words.held_out_words()
    texts: dict[str, None] = {}  # a set that keeps its order
    while len(texts) < pairs:
        text = words.text_of(held_out, rng)
        if " " in text:
            texts[text] = None
    return (*held_out, *texts)


@torch.inference_mode()
def answers(
    model: Any, tokenizer: Any, texts: Sequence[str], prompt: Tensor | None = None
) -> list[str]:
    """Return what ``model`` adds to each text, without the arrow, by greedy decoding.

    Args:
        model: The base model.
        tokenizer: Its tokenizer, which pads on the left.
        texts: What to answer, as one batch.
        prompt: [P, H] A soft prompt to put in front of each text, or None.
    """
    batch = tokenizer(list(texts), return_tensors="pt", padding=True)
    inputs = model.get_input_embeddings()(batch.input_ids)  # [B, T, H]
    mask = batch.attention_mask
    if prompt is not None:
        rows = prompt.to(inputs).expand(len(inputs), -1, -1)  # [B, P, H]
        inputs = torch.cat([rows, inputs], dim=1)  # [B, P + T, H]
        mask = torch.cat([mask.new_ones(rows.shape[:2]), mask], dim=1)
    # Given embeddings, generate returns the new tokens only.
    tokens = model.generate(
        inputs_embeds=inputs, attention_mask=mask, max_new_tokens=40, do_sample=False
    )
    lines = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [line.removeprefix(ARROW) for line in lines]


def accuracy(outputs: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the share of ``outputs`` that are exactly as ``wanted``."""
    right = sum(output == want for output, want in zip(outputs, wanted, strict=True))
    return round(right / len(wanted), 4)
