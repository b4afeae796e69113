"""The virtual tokens of a batch whose rows have prompts of their own, of any length and method, or none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptreg.models.virtual import KeyTable, VirtualRows, VirtualTokens, split_layers
from promptreg.prompts import Placement

__all__ = ["MixedRows", "mix"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MixedRows:
    """The virtual tokens of a batch, in the two forms that they come in; a row has one of them, or none.

    B is the number of rows.

    Attributes:
        count: B.
        embedded: Those that are embeddings, to be put among the text's; None if no row has any.
        cached: Those that are keys and values, to begin the cache with; None if no row has any.
        owners: [B] Whose each row is: None for the bare base model.
        names: [B] What the caller named them by, if it did.
    """

    count: int
    embedded: VirtualRows | None = None
    cached: VirtualRows | None = None
    owners: tuple[VirtualTokens | None, ...]
    names: tuple[str | None, ...] = ()

    @property
    def parts(self) -> tuple[VirtualRows, ...]:
        """Both forms, in the order in which they are put beside the text; an empty one if no row has any."""
        given = tuple(rows for rows in (self.embedded, self.cached) if rows is not None)
        return given or (VirtualRows(length=0),)

    @property
    def length(self) -> int:
        """P: how many columns the virtual tokens take, or stand for."""
        return sum(rows.length for rows in self.parts)

    def select(self, rows: Sequence[int]) -> "MixedRows":
        """Return those of ``rows`` alone, in the columns that they have here, for a pass that goes on.

        What they brought is in that pass's cache: only where it stands is kept.
        """
        return MixedRows(
            count=len(rows),
            embedded=None if self.embedded is None else _place_of(self.embedded, rows),
            cached=None if self.cached is None else _place_of(self.cached, rows),
            owners=tuple(self.owners[row] for row in rows),
            names=tuple(self.names[row] for row in rows) if self.names else (),
        )

    @property
    def lengths(self) -> Tensor:
        """[B] How many virtual tokens each row has, on the CPU."""
        return torch.tensor([0 if owner is None else owner.length for owner in self.owners])


def _place_of(part: VirtualRows, rows: Sequence[int]) -> VirtualRows:
    chosen = list(rows)
    behind = part.after_first
    return VirtualRows(
        length=part.length,
        mask=None if part.mask is None else part.mask[chosen],
        after_first=behind[chosen] if isinstance(behind, Tensor) else behind,
    )


def mix(
    owners: Sequence[VirtualTokens | None],
    tables: Mapping[VirtualTokens, KeyTable],
    names: Sequence[str | None] = (),
) -> MixedRows:
    """Return the virtual tokens of a batch.

    Args:
        owners: [B] Each row's virtual tokens; None for the bare base model.
        tables: The keys and values of those that are to be used so.
        names: [B] What the caller named them by, if it did.
    """
    embedded = [None if owner is None or owner in tables else owner for owner in owners]
    cached = [owner if owner is not None and owner in tables else None for owner in owners]
    return MixedRows(
        count=len(owners),
        embedded=_embedded(embedded) if any(embedded) else None,
        cached=_cached(cached, tables) if any(cached) else None,
        owners=tuple(owners),
        names=tuple(names),
    )


def _embedded(owners: Sequence[VirtualTokens | None]) -> VirtualRows:
    parts = {owner: owner.embeddings for owner in owners if owner is not None}
    given = {owner: part for owner, part in parts.items() if part is not None}
    behind = [owner is not None and owner.placement is Placement.AFTER_BOS for owner in owners]
    device = next(iter(given.values())).device
    mixed = any(behind) and not all(behind)
    return VirtualRows(
        length=_longest(owners),
        mask=_mask(owners, device),
        embeddings=_stack(owners, given),
        after_first=torch.tensor(behind, device=device) if mixed else all(behind),
    )


def _cached(
    owners: Sequence[VirtualTokens | None], tables: Mapping[VirtualTokens, KeyTable]
) -> VirtualRows:
    given = {owner: tables[owner] for owner in owners if owner is not None}
    first = next(iter(given.values()))
    if len(given) == 1 and all(owners):
        layers = first.layers()  # [heads, P, width], the same for all rows
    else:
        stacked = _stack(owners, {owner: table.table for owner, table in given.items()})
        layers = split_layers(stacked, first.shapes)
    return VirtualRows(
        length=_longest(owners), mask=_mask(owners, first.table.device), key_values=layers
    )


def _longest(owners: Sequence[VirtualTokens | None]) -> int:
    return max(owner.length for owner in owners if owner is not None)


def _mask(owners: Sequence[VirtualTokens | None], device: torch.device) -> Tensor | None:
    """Return [B, P] Which virtual tokens are real, as 0 and 1; None if all are."""
    lengths = [0 if owner is None else owner.length for owner in owners]
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    missing = torch.tensor([longest - length for length in lengths])
    return (torch.arange(longest) >= missing[:, None]).long().to(device)


def _stack(owners: Sequence[VirtualTokens | None], parts: Mapping[VirtualTokens, Tensor]) -> Tensor:
    """Return [B, P, ...] Each row's part [P, ...], the shorter ones at the end of their row behind zeros."""
    any_part = next(iter(parts.values()))
    longest = _longest(owners)
    if len(parts) == 1 and all(owners):
        return any_part.expand(len(owners), -1, -1)
    by_owner: dict[VirtualTokens, list[int]] = {}
    for row, owner in enumerate(owners):
        if owner is not None:
            by_owner.setdefault(owner, []).append(row)
    padded = any(owner is None or owner.length < longest for owner in owners)
    make = any_part.new_zeros if padded else any_part.new_empty
    stacked = make((len(owners), longest, *any_part.shape[1:]))
    for owner, rows in by_owner.items():
        # One copy a prompt, into place.
        stacked[rows, longest - owner.length :] = parts[owner]
    return stacked
