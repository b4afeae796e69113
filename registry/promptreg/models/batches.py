"""The caller's text as it comes in: checked for its shape, its cache and the model's window."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from promptreg.errors import AttachError
from promptreg.models.anatomy import Anatomy
from promptreg.models.mixing import MixedRows

__all__ = ["Batch", "check_window", "past_length", "read_batch", "text_lengths"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """The caller's text.

    Attributes:
        ids: [B, T] As token ids; None if it came embedded.
        embeddings: [B, T, H] As embeddings; None if it came as token ids.
        mask: [B, T] Which tokens are real, as 0 and 1; None if the caller did not say.
    """

    ids: Tensor | None
    embeddings: Tensor | None
    mask: Tensor | None

    @property
    def rows(self) -> int:
        """B."""
        return len(self._given)

    @property
    def length(self) -> int:
        """T."""
        return self._given.shape[1]

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._given.device

    def embedded(self, anatomy: Anatomy) -> Tensor:
        """Return [B, T, H] The text's embeddings."""
        if self.embeddings is not None:
            return self.embeddings
        embedded: Tensor = anatomy.embedding(self.ids)
        return embedded

    @property
    def _given(self) -> Tensor:
        given = self.ids if self.embeddings is None else self.embeddings
        if given is None:
            raise AttachError(
                "there is no text: input_ids is None", "pass input_ids or inputs_embeds"
            )
        return given


def read_batch(
    ids: Tensor | None, embeddings: Tensor | None, mask: Tensor | None, *, past: int = 0
) -> Batch:
    """Return the caller's text.

    Args:
        ids: [B, T] Its token ids, or None.
        embeddings: [B, T, H] Its embeddings, or None.
        mask: [B, past + T] Its attention mask, or None.
        past: How many text tokens are in the cache already.

    Raises:
        AttachError: There is none, or its parts do not have one shape.
    """
    if ids is not None and ids.ndim != 2:  # noqa: PLR2004
        raise AttachError(
            f"input_ids is {list(ids.shape)}, not [batch, tokens]", "give it a batch dimension"
        )
    batch = Batch(ids=ids, embeddings=embeddings, mask=None)
    shape = (batch.rows, batch.length)
    if mask is None:
        return batch
    if mask.ndim != 2:  # noqa: PLR2004
        raise AttachError(
            f"attention_mask has {mask.ndim} dimensions, and the prompt's tokens must be put into it",
            "pass one of two dimensions, [batch, tokens]",
        )
    if tuple(mask.shape) != (shape[0], past + shape[1]):
        cached = f", {past} tokens of it in the cache" if past else ""
        raise AttachError(
            f"attention_mask is {list(mask.shape)}, and the text is {[shape[0], past + shape[1]]}{cached}",
            "pass a mask for the text alone: the prompt's tokens are added to it",
        )
    return Batch(ids=ids, embeddings=embeddings, mask=(mask != 0).long().to(batch.device))


def past_length(cache: Any, virtual: int) -> int | None:
    """Return how many text tokens a cache holds behind a prompt.

    Args:
        cache: A transformers cache, or None.
        virtual: P.

    Returns:
        None if it holds nothing yet.

    Raises:
        AttachError: It holds less than the prompt.
    """
    held = 0 if cache is None else int(cache.get_seq_length())
    if held == 0:
        return None
    if held < virtual:
        raise AttachError(
            f"past_key_values holds {held} tokens, and the prompt alone has {virtual}: another model filled it",
            "pass what this prompted model returned, or leave past_key_values out",
        )
    return held - virtual


def check_window(anatomy: Anatomy, rows: MixedRows, text: int, mask: Tensor | None) -> None:
    """Return if every row fits into the model's window together with its prompt.

    Args:
        anatomy: The base model.
        rows: The virtual tokens.
        text: T, the text's length, padding included.
        mask: [B, T] Which tokens are real; None if all are.

    Raises:
        AttachError: One does not.
    """
    window = anatomy.window
    if window is None or rows.length + text <= window:
        return
    virtual = rows.lengths
    tokens = text_lengths(text, mask, rows.count)
    worst = int((virtual + tokens).argmax())
    if virtual[worst] + tokens[worst] <= window:
        return
    room = max(window - int(virtual[worst]), 0)
    row = f" of row {worst}" if rows.count > 1 else ""
    raise AttachError(
        f"the text{row} is {int(tokens[worst])} tokens long, and {room} fit into the model's window of "
        f"{window} beside the prompt's {int(virtual[worst])} virtual tokens",
        f"shorten the text to {room} tokens",
    )


def text_lengths(text: int, mask: Tensor | None, rows: int) -> Tensor:
    """Return [B] how many real tokens each row has, on the CPU."""
    return torch.full((rows,), text) if mask is None else mask.sum(dim=1).cpu()
