"""Placing virtual tokens beside a row's own text, whatever the padding.

PEFT puts them in front of everything, padding included, so a left-padded row has padding between its prompt and
its text, and gets other outputs than it gets alone. Here every row is contiguous: padding, prompt, text.
"""

from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor

__all__ = ["Alignment", "Layout", "lay_out", "positions"]


class Alignment(Enum):
    """Where the padding of a row goes."""

    AS_GIVEN = auto()
    """Where it is: the text keeps its columns."""
    LEFT = auto()
    """Behind the text: an encoder pools the first column and counts positions from it."""
    RIGHT = auto()
    """In front of the prompt: the last column is each row's last token, which generation continues from."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Which column of the prompted input holds what.

    B rows, P virtual tokens, T text tokens; S columns, P + T unless padding had to be cut off.

    Attributes:
        virtual: P.
        text: T.
        source: [B, S] What each column holds: p < P is virtual token p, P + t is text token t. None if that is
            simply the virtual tokens and then the text.
        columns: [B, T] The column of each text token. None if text token t stands in column P + t.
        virtual_mask: [B, P] Which virtual tokens are real, as 0 and 1. None if all are.
        text_mask: [B, T] Which text tokens are real, as 0 and 1. None if all are.
    """

    virtual: int
    text: int
    source: Tensor | None = None
    columns: Tensor | None = None
    virtual_mask: Tensor | None = None
    text_mask: Tensor | None = None

    @property
    def width(self) -> int:
        """S."""
        return self.virtual + self.text if self.source is None else self.source.shape[1]

    def merge(self, virtual: Tensor, text: Tensor) -> Tensor:
        """Return the prompted input.

        Args:
            virtual: [B, P, ...] What the virtual tokens bring.
            text: [B, T, ...] What the text tokens bring.

        Returns:
            [B, S, ...]
        """
        merged = torch.cat([virtual, text], dim=1)  # [B, P + T, ...]
        return merged if self.source is None else _take(merged, self.source)

    def mask(self, rows: int, device: torch.device) -> Tensor:
        """Return [B, S] Which columns of the B ``rows`` hold real tokens, as 0 and 1, on ``device``."""
        virtual, text = (
            torch.ones(rows, length, dtype=torch.long, device=device) if given is None else given
            for given, length in ((self.virtual_mask, self.virtual), (self.text_mask, self.text))
        )
        return self.merge(virtual, text)

    def text_order(self, text: Tensor) -> Tensor:
        """Return what stands in the columns behind the first P.

        Keys and values of a prompt take no columns of the input, so these are the input of prefix tuning.

        Args:
            text: [B, T, ...] What the text tokens bring.

        Returns:
            [B, S - P, ...] Where a column holds a virtual token (the row is padded on the left), any text token
            stands in: its place is taken over by ``key_value_order``.
        """
        if self.source is None:
            return text
        return _take(text, (self.source[:, self.virtual :] - self.virtual).clamp(min=0))

    def key_value_order(self) -> Tensor | None:
        """Return [B, S] Which of the prompt's P keys and the text's S - P keys stands in each column.

        None if that is simply the prompt's and then the text's.
        """
        if self.source is None:
            return None
        here = torch.arange(self.width, device=self.source.device)
        return torch.where(self.source < self.virtual, self.source, here)

    def text_of(self, output: Tensor, *, dim: int = 1, without_virtual: bool = False) -> Tensor:
        """Return the text tokens' part of ``output``.

        Args:
            output: [B, S, ...] (or with S as dimension ``dim``) What the model gave for each column.
            dim: The dimension of the columns.
            without_virtual: That the output has S - P columns, the prompt having taken none.

        Returns:
            [B, T, ...] At padding, something undefined.
        """
        first = 0 if without_virtual else self.virtual
        if self.columns is None:
            return output.narrow(dim, first, self.text)
        columns = (self.columns - (self.virtual - first)).clamp(0, output.shape[dim] - 1)
        return _take(output.movedim(dim, 1), columns).movedim(1, dim)

    def column_of(self, text: Tensor) -> Tensor:
        """Return [B] The column of each row's text token ``text`` [B] (an index into its T)."""
        if self.columns is None:
            return text + self.virtual
        return self.columns.gather(1, text[:, None])[:, 0]

    def repeated(self, times: int) -> "Layout":
        """Return the layout of the same rows, each ``times`` times in turn (beams)."""
        if times == 1:
            return self
        tensors = (self.source, self.columns, self.virtual_mask, self.text_mask)
        source, columns, virtual_mask, text_mask = (
            None if tensor is None else tensor.repeat_interleave(times, dim=0) for tensor in tensors
        )
        return Layout(
            virtual=self.virtual,
            text=self.text,
            source=source,
            columns=columns,
            virtual_mask=virtual_mask,
            text_mask=text_mask,
        )


def lay_out(
    virtual: int,
    text: int,
    *,
    rows: int,
    device: torch.device,
    text_mask: Tensor | None = None,
    virtual_mask: Tensor | None = None,
    alignment: Alignment = Alignment.AS_GIVEN,
    after_first: Tensor | bool = False,
    limit: int | None = None,
) -> Layout:
    """Decide which column of the prompted input holds what.

    Args:
        virtual: P, the longest prompt's length.
        text: T.
        rows: B.
        device: Where the input is.
        text_mask: [B, T] Which text tokens are real; None if all are.
        virtual_mask: [B, P] Which virtual tokens are real (rows with shorter prompts have fewer); None if all.
        alignment: Where padding goes.
        after_first: [B] Which rows have their prompt behind their first real token (BOS), not in front of
            it; or all or none.
        limit: The most columns that the model can read: padding that goes beyond is cut off.
    """
    full = text_mask is None or _in_order(text_mask, alignment)
    fits = limit is None or virtual + text <= limit
    if full and fits and virtual_mask is None and after_first is False:
        return Layout(virtual=virtual, text=text, text_mask=text_mask)
    real_text = _real(text_mask, rows, text, device)
    real_virtual = _real(virtual_mask, rows, virtual, device)
    place = torch.cat(
        [
            _virtual_places(real_virtual, alignment),
            _text_places(real_text, alignment, after_first=after_first),
        ],
        dim=1,
    )  # [B, P + T]
    source = place.argsort(dim=1, stable=True)  # [B, P + T]
    columns = source.argsort(dim=1)[:, virtual:]  # [B, T], the inverse's part for the text
    if not fits:
        source = source[:, :limit]
    return Layout(
        virtual=virtual,
        text=text,
        source=source,
        columns=columns,
        virtual_mask=virtual_mask,
        text_mask=text_mask,
    )


def positions(mask: Tensor) -> Tensor:
    """Count each row's real tokens from 0.

    Args:
        mask: [B, S] Which columns hold real tokens.

    Returns:
        [B, S] Padding repeats the position before it (0 at the row's start), so that none is out of range.
    """
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


# A row's columns are sorted by these places; what has the same place stays in order.
_FRONT, _UNUSED, _FIRST, _PROMPT, _TEXT, _BACK = range(6)


def _virtual_places(real: Tensor, alignment: Alignment) -> Tensor:
    """Return [B, P] The places of the virtual tokens ``real`` [B, P]."""
    unused = _BACK if alignment is Alignment.LEFT else _UNUSED
    return torch.where(real, _PROMPT, unused)


def _text_places(real: Tensor, alignment: Alignment, *, after_first: Tensor | bool) -> Tensor:
    """Return [B, T] The places of the text tokens ``real`` [B, T]."""
    seen = real.cumsum(dim=1)
    if alignment is Alignment.LEFT:
        places = torch.where(real, _TEXT, _BACK)
    elif alignment is Alignment.RIGHT:
        places = torch.where(real, _TEXT, _FRONT)
    else:
        places = torch.where(seen > 0, _TEXT, _FRONT)
    if after_first is False:
        return places
    behind = after_first[:, None] if isinstance(after_first, Tensor) else True
    return torch.where(real & (seen == 1) & behind, _FIRST, places)


def _in_order(mask: Tensor, alignment: Alignment) -> bool:
    """Return whether no column must move: each row starts with its text (and, aligned right, is all text)."""
    checked = mask if alignment is Alignment.RIGHT else mask[:, :1]
    return bool((checked != 0).all())


def _real(mask: Tensor | None, rows: int, length: int, device: torch.device) -> Tensor:
    if mask is None:
        return torch.ones(rows, length, dtype=torch.bool, device=device)
    return mask.to(device) != 0


def _take(values: Tensor, columns: Tensor) -> Tensor:
    """Return [B, C, ...] of ``values`` [B, S, ...] the columns [B, C] of each row."""
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, columns]
