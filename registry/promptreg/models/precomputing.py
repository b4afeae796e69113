"""A decoder's keys and values of a prompt, computed once: whatever text follows, they are the same.

A decoder's token sees only the tokens before it. So what the layers make of a prompt in front of the text does
not depend on the text, and need not be computed again for any batch.
"""

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from promptreg.errors import AttachError
from promptreg.models.anatomy import Anatomy, Kind
from promptreg.models.placing import positions
from promptreg.models.virtual import KeyTable, VirtualTokens
from promptreg.prompts import Placement

__all__ = ["KeyTables", "can_precompute", "precompute"]

_TOKENS_AT_ONCE = (
    4096  # virtual tokens in one forward pass, so that many prompts do not fill the memory
)


def can_precompute(anatomy: Anatomy) -> bool:
    """Return whether the base model keeps a prompt as keys and values alone."""
    if anatomy.kind is not Kind.DECODER or anatomy.counts_padding:
        return False
    try:
        anatomy.key_values  # noqa: B018
    except AttachError:
        return False
    taken = inspect.signature(_backbone(anatomy).forward).parameters
    return {"inputs_embeds", "past_key_values", "attention_mask"} <= taken.keys()


@torch.no_grad()
def precompute(anatomy: Anatomy, prompts: Sequence[Tensor]) -> list[KeyTable]:
    """Run the backbone over the virtual tokens of some prompts, in one pass.

    Args:
        anatomy: The base model, a decoder.
        prompts: [P, H] The embeddings of each prompt, which may have lengths of their own.

    Returns:
        The keys and values of each prompt.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    longest = int(lengths.max())
    arguments: dict[str, Any] = {"inputs_embeds": pad_sequence(list(prompts), batch_first=True)}
    if int(lengths.min()) < longest:
        mask = (torch.arange(longest) < lengths[:, None]).long().to(prompts[0].device)
        arguments["attention_mask"] = mask
        if "position_ids" in anatomy.accepts:
            arguments["position_ids"] = positions(mask)
    # Without a config its layers grow and forget nothing: a sliding window must not cut a prompt short here.
    cache = DynamicCache()
    _backbone(anatomy)(**arguments, past_key_values=cache, use_cache=True)
    layers: list[Any] = cache.layers
    shapes = tuple(
        (layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers
    )
    flat = [
        tensor.transpose(1, 2).flatten(2)  # [prompts, P, heads * width]
        for layer in layers
        for tensor in (layer.keys, layer.values)
    ]
    tables = torch.cat(flat, dim=2)  # [prompts, P, D]
    own = [table[:length] for table, length in zip(tables, lengths.tolist(), strict=True)]
    # Copies, where there are several: a view would keep the tables of all of them alive.
    return [KeyTable(table=t.clone() if len(own) > 1 else t, shapes=shapes) for t in own]


class KeyTables:
    """The keys and values of attached prompts: as many as fit into a number of bytes, the latest used.

    Any thread may ask.

    Attributes:
        limit: How many bytes they may take. What one batch needs is held while it runs, even if it is more.
    """

    def __init__(self, anatomy: Anatomy, limit: int) -> None:
        self.limit = limit
        self._anatomy = anatomy
        self._tables: OrderedDict[VirtualTokens, KeyTable] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @cached_property
    def _enabled(self) -> bool:
        # Asked when it is first needed: attaching need not wait for it.
        return can_precompute(self._anatomy)

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return self._bytes

    def serves(self, tokens: VirtualTokens) -> bool:
        """Return whether ``tokens`` are used as keys and values on this base model."""
        if tokens.key_table is not None:
            return True
        # Behind a text's first token a prompt sees that token.
        return self._enabled and tokens.placement is Placement.PREFIX

    def __contains__(self, tokens: VirtualTokens) -> bool:
        return tokens in self._tables

    def of(
        self, wanted: Collection[VirtualTokens], *, kept: Callable[[VirtualTokens], bool]
    ) -> Mapping[VirtualTokens, KeyTable]:
        """Return the keys and values of all ``wanted``, computing those that are not at hand.

        Args:
            wanted: Virtual tokens that this base model uses so.
            kept: Whether to keep those of a prompt for later: not once it was removed.
        """
        found = {each: each.key_table for each in wanted if each.key_table is not None}
        missing = []
        with self._lock:
            for tokens in wanted:
                if tokens in self._tables:
                    self._tables.move_to_end(tokens)
                    found[tokens] = self._tables[tokens]
                elif tokens not in found:
                    missing.append(tokens)
        for group in _groups(missing):
            embeddings = [each.embeddings for each in group if each.embeddings is not None]
            found.update(zip(group, precompute(self._anatomy, embeddings), strict=True))
        with self._lock:
            for tokens in missing:
                if kept(tokens) and tokens not in self._tables:
                    self._tables[tokens] = found[tokens]
                    self._bytes += found[tokens].nbytes
            while self._bytes > self.limit:
                self._bytes -= self._tables.popitem(last=False)[1].nbytes
        return found

    def warm(self, wanted: Collection[VirtualTokens]) -> None:
        """Compute the keys and values of all ``wanted`` now.

        Raises:
            AttachError: They are not finite: in the model's dtype the prompt's numbers run over.
        """
        tables = self.of(wanted, kept=lambda _tokens: True)
        if not tables:
            return
        # One look at the device for all.
        finite = torch.stack([table.table.isfinite().all() for table in tables.values()])
        if not bool(finite.all()):
            for tokens in wanted:
                self.drop(tokens)
            raise AttachError(
                "the base model makes keys and values of the prompt that are not finite",
                "check the prompt's numbers, or load the base model in a wider dtype",
            )

    def drop(self, tokens: VirtualTokens) -> None:
        """Forget the keys and values of a prompt."""
        with self._lock:
            table = self._tables.pop(tokens, None)
            self._bytes -= 0 if table is None else table.nbytes

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._tables.clear()
            self._bytes = 0


def _backbone(anatomy: Anatomy) -> Any:
    """Return the layers without a head over the vocabulary, which costs more than a prompt does."""
    return anatomy.model.base_model


def _groups(tokens: Sequence[VirtualTokens]) -> list[list[VirtualTokens]]:
    """Return ``tokens`` in groups that one forward pass takes, those of like length together."""
    groups: list[list[VirtualTokens]] = []
    for each in sorted(tokens, key=lambda tokens: tokens.length, reverse=True):
        if not groups or (len(groups[-1]) + 1) * groups[-1][0].length > _TOKENS_AT_ONCE:
            groups.append([])
        groups[-1].append(each)
    return groups
