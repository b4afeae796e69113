"""Classifiers that prompts bring: the same backbone for all rows, for each row its own prompt's head."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from promptreg.errors import AttachError
from promptreg.models.views import replaced, with_parameters
from promptreg.models.virtual import VirtualTokens

__all__ = ["with_heads"]

_Module = TypeVar("_Module", bound=nn.Module)


def with_heads(model: _Module, owners: Sequence[VirtualTokens | None]) -> _Module:
    """Return ``model`` as it would be with the trained modules that each row's prompt brings.

    Args:
        model: The base model.
        owners: [B] Each row's prompt; None for the bare base model.

    Returns:
        The model itself if no prompt brings any; else a view of it, for a batch of these rows.

    Raises:
        AttachError: Several prompts bring modules, and one is not a linear layer.
    """
    brought = [{} if owner is None else owner.modules for owner in owners]
    distinct = {id(own): own for own in brought if own}
    if not distinct:
        return model
    if len(distinct) == 1 and all(brought):
        return with_parameters(model, next(iter(distinct.values())))
    paths = dict.fromkeys(name.rpartition(".")[0] for own in distinct.values() for name in own)
    return replaced(model, {path: _row_linear(model, path, brought) for path in paths})


class _RowLinear(nn.Module):
    """A linear layer with a weight for each row.

    B rows, I inputs, O outputs.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # Buffers, because a gradient may be wanted of what they were stacked from.
        self.register_buffer("weight", weight)  # [B, O, I]
        self.register_buffer("bias", bias)  # [B, O]
        self.eval()

    def forward(self, states: Tensor) -> Tensor:
        """Return [B, ..., O] of ``states`` [B, ..., I]."""
        flat = states.reshape(len(states), -1, states.shape[-1])
        output = flat @ self.weight.transpose(1, 2)
        if self.bias is not None:
            output = output + self.bias[:, None]
        return output.reshape(*states.shape[:-1], -1)


def _row_linear(model: nn.Module, path: str, brought: Sequence[Mapping[str, Tensor]]) -> _RowLinear:
    layer = model.get_submodule(path)
    if not isinstance(layer, nn.Linear):
        raise AttachError(
            f"several prompts of this batch bring their own {path}, a {type(layer).__name__}, and only linear "
            "layers can differ from row to row",
            "give each of these prompts a batch of its own",
        )
    weight = [own.get(f"{path}.weight", layer.weight) for own in brought]
    bias = None if layer.bias is None else [own.get(f"{path}.bias", layer.bias) for own in brought]
    return _RowLinear(torch.stack(weight), None if bias is None else torch.stack(bias))
