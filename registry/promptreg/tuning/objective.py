"""What a prompt is trained to lower: the negative log-likelihood of each row's answer.

B rows, T text tokens, M the longest answer's tokens, C classes, V vocabulary.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from promptreg.errors import TuningError
from promptreg.models.anatomy import Kind
from promptreg.models.mixing import MixedRows
from promptreg.models.rows import decoder_start, last_columns, padded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptreg.models import PromptedModel
    from promptreg.tuning.rows import Row

__all__ = ["losses"]

_NONE = -100  # cross_entropy passes over these


def losses(prompted: "PromptedModel", mixed: MixedRows, rows: "Sequence[Row]") -> Tensor:
    """Return [B] the negative log-likelihood of each row's answer, summed over its tokens, in nats.

    Logits are computed for the answers' columns alone: over a large vocabulary they would cost more than all
    layers do.

    Args:
        prompted: The frozen base model.
        mixed: The virtual tokens of each row. A gradient goes to those that want one.
        rows: [B] The texts and their answers.

    Raises:
        TuningError: The base model classifies, and a row has no label; or the other way round.
    """
    if prompted.anatomy.pooled:
        return _of_classes(prompted, mixed, rows)
    if any(not row.answer for row in rows):
        raise TuningError("a row has no answer to learn", "give each example a label or a target")
    if prompted.anatomy.kind is Kind.ENCODER_DECODER:
        return _of_decoder(prompted, mixed, rows)
    return _of_continuation(prompted, mixed, rows)


def _of_continuation(prompted: "PromptedModel", mixed: MixedRows, rows: "Sequence[Row]") -> Tensor:
    """Return [B] the loss of answers that continue their texts, in the last columns of each row."""
    batch = padded([[*row.ids, *row.answer] for row in rows], prompted.device, left=True)
    longest = max(len(row.answer) for row in rows)
    accepts = prompted.anatomy.accepts
    # Each answer's last token is in the last column, and each token is predicted in the column before its own.
    keep = last_columns(accepts, -longest - 1, -2)
    caching = {"use_cache": False} if "use_cache" in accepts else {}
    logits = prompted.run(mixed, {**batch, **keep, **caching}).logits
    if not keep:
        logits = logits[:, -longest - 1 : -1]
    return _sum(logits, _answers(rows, prompted.device, left=True))


def _of_decoder(prompted: "PromptedModel", mixed: MixedRows, rows: "Sequence[Row]") -> Tensor:
    """Return [B] the loss of answers that a decoder writes of its own."""
    start = decoder_start(prompted)
    batch = padded([row.ids for row in rows], prompted.device, left=False)
    begun = padded([[start, *row.answer[:-1]] for row in rows], prompted.device, left=False)
    logits = prompted.run(
        mixed, {**batch, "decoder_input_ids": begun["input_ids"], "use_cache": False}
    ).logits  # [B, M, V]
    return _sum(logits, _answers(rows, prompted.device, left=False))


def _of_classes(prompted: "PromptedModel", mixed: MixedRows, rows: "Sequence[Row]") -> Tensor:
    """Return [B] the loss of the right class."""
    if any(row.label < 0 for row in rows):
        raise TuningError(
            f"a {type(prompted.model).__name__} answers with classes, and a row has a target",
            "write {text, label} lines, or load a model that writes text",
        )
    batch = padded([row.ids for row in rows], prompted.device, left=False)
    logits = prompted.run(mixed, dict(batch)).logits  # [B, C]
    wanted = torch.tensor([row.label for row in rows], device=logits.device)
    return cross_entropy(logits.float(), wanted, reduction="none")


def _answers(rows: "Sequence[Row]", device: torch.device, *, left: bool) -> Tensor:
    """Return [B, M] the answers' tokens, and -100 beside the shorter ones."""
    batch = padded([row.answer for row in rows], device, left=left)
    return batch["input_ids"].masked_fill(batch["attention_mask"] == 0, _NONE)


def _sum(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return [B] the loss of ``wanted`` [B, M] by ``logits`` [B, M, V]."""
    each = cross_entropy(
        logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=_NONE, reduction="none"
    )
    return each.reshape(wanted.shape).sum(dim=1)
