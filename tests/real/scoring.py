"""What a model says comes after a text. The training side and the loading side share it."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["choose", "label_ids", "last_logits", "length_batches", "score"]

_ROWS = 10


def score(model: Any, tokenizer: Any, inputs: Sequence[str]) -> Tensor:
    """Return what ``model`` says comes after each input.

    N is the number of inputs, V the vocabulary.

    Args:
        model: Whatever is called as a causal language model of transformers is.
        tokenizer: Its tokenizer.
        inputs: The texts.

    Returns:
        [N, V] The logits behind the last token of each.
    """
    logits: list[Tensor] = [torch.empty(0)] * len(inputs)
    with torch.no_grad():
        for batch in length_batches(tokenizer, inputs, rows=_ROWS):
            found = last_logits(model, tokenizer, [inputs[index] for index in batch])
            for index, row in zip(batch, found, strict=True):
                logits[index] = row
    return torch.stack(logits)


def length_batches(tokenizer: Any, inputs: Sequence[str], *, rows: int) -> Iterator[list[int]]:
    """Yield the indices of all inputs, ``rows`` at a time, those of like length together."""
    lengths = [len(ids) for ids in tokenizer(list(inputs)).input_ids]
    order = sorted(range(len(inputs)), key=lambda index: lengths[index])
    for start in range(0, len(order), rows):
        yield order[start : start + rows]


def last_logits(model: Any, tokenizer: Any, inputs: Sequence[str]) -> Tensor:
    """Return [B, V] the logits behind the last token of each input, from one forward pass.

    Rows are padded on the right, where PEFT is right too.
    """
    encoded = tokenizer(list(inputs), padding=True, padding_side="right", return_tensors="pt")
    missing = encoded.attention_mask.shape[1] - encoded.attention_mask.sum(dim=1)  # [B]
    # The head over 262,144 words costs more than the layers below it: only where some row ends.
    keep = int(missing.max()) + 1
    logits = model(**encoded, logits_to_keep=keep).logits  # [B, keep, V]
    last: Tensor = logits[torch.arange(len(inputs)), keep - 1 - missing]
    return last


def choose(logits: Tensor, tokenizer: Any, labels: Sequence[str]) -> list[str]:
    """Return the likeliest label for each row of ``logits`` [N, V]."""
    ids = torch.tensor(label_ids(tokenizer, labels))
    return [labels[index] for index in logits[:, ids].argmax(dim=1).tolist()]


def label_ids(tokenizer: Any, labels: Sequence[str]) -> list[int]:
    """Return the token that each label is, as a word behind another."""
    found = [tokenizer(f" {label}", add_special_tokens=False).input_ids for label in labels]
    assert all(len(ids) == 1 for ids in found), f"each of {labels} should be one token: {found}"
    return [ids[0] for ids in found]
