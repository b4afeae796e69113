"""A base model with its numbers rounded as quantisers round them: what honest quantisation does to it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from promptreg.fingerprints import Part
from promptreg.models.canonical import Naming
from promptreg.models.views import Copies

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["EIGHT_BITS", "FOUR_BITS", "Rounding", "rounded_view"]

_GROUP = 32
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How a quantiser rounds.

    Attributes:
        weight: What it makes of a matrix.
        activation: What it makes of what is multiplied with the matrix; None if it leaves that alone.
    """

    weight: Callable[[Tensor], Tensor]
    activation: Callable[[Tensor], Tensor] | None = None


def rounded_view(model: "PreTrainedModel", rounding: Rounding) -> "PreTrainedModel | None":
    """Return a view of ``model`` in which the matrices of the layers are rounded.

    Each module rounds its own as it is called, and drops what came of it: no second model is in memory.
    Embeddings and heads stay as they are, as quantisers leave them.

    Args:
        model: The base model.
        rounding: How to round.

    Returns:
        None if there is nothing to round: the model is quantised already.
    """
    naming = Naming.of(model)
    matrices: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        path, _, attribute = name.rpartition(".")
        is_matrix = parameter.ndim > 1 and parameter.is_floating_point()
        is_table = isinstance(model.get_submodule(path), nn.Embedding)
        if is_matrix and not is_table and naming.part(name) is Part.BODY:
            matrices.setdefault(path, []).append(attribute)
    if not matrices:
        return None
    copies = Copies(model)
    for path, attributes in matrices.items():
        _round_when_called(copies[path], attributes, rounding)
    view: PreTrainedModel = copies.model
    return view


def _round_when_called(module: nn.Module, attributes: list[str], rounding: Rounding) -> None:
    plain = {name: module._parameters[name] for name in attributes}  # noqa: SLF001

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        for name, parameter in plain.items():
            if parameter is not None:
                rounded = rounding.weight(parameter.detach())
                module._parameters[name] = nn.Parameter(rounded, requires_grad=False)  # noqa: SLF001
        if rounding.activation is None or not (inputs and isinstance(inputs[0], Tensor)):
            return inputs
        return (rounding.activation(inputs[0]), *inputs[1:])

    def after(module: nn.Module, _inputs: Any, _output: Any) -> None:
        module._parameters.update(plain)  # noqa: SLF001

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


def _weight_to_four_bits(weight: Tensor) -> Tensor:
    """Round each group of 32 values to 15 levels, as the plainest 4-bit formats do."""
    width = weight.shape[-1]
    groups = weight.float().reshape(-1, _GROUP if width % _GROUP == 0 else width)
    step = groups.abs().amax(dim=1, keepdim=True).clamp(min=_TINY) / 7
    return ((groups / step).round() * step).reshape(weight.shape).to(weight.dtype)


def _weight_to_eight_bits(weight: Tensor) -> Tensor:
    """Round a whole matrix to 255 levels, as PyTorch's dynamic quantisation does."""
    whole = weight.float()
    step = whole.abs().max().clamp(min=_TINY) / 127
    return ((whole / step).round() * step).to(weight.dtype)


def _activation_to_seven_bits(activation: Tensor) -> Tensor:
    """Round to 128 levels between the least value and the largest, as PyTorch's dynamic quantisation does."""
    whole = activation.float()
    least, most = whole.min().clamp(max=0), whole.max().clamp(min=0)
    step = (most - least).clamp(min=_TINY) / 127
    zero = (-least / step).round()
    levels = ((whole / step).round() + zero).clamp(0, 127)
    return ((levels - zero) * step).to(activation.dtype)


FOUR_BITS = Rounding(weight=_weight_to_four_bits)
EIGHT_BITS = Rounding(weight=_weight_to_eight_bits, activation=_activation_to_seven_bits)
