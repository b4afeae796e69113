"""A base model with its weights rounded to four bits as they are used: what honest quantisation does to it."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from promptreg.fingerprints import Part
from promptreg.models.canonical import Naming
from promptreg.models.views import Copies

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["round_to_four_bits", "rounded_view"]

_GROUP = 32
_LARGEST = 7  # of the integers -7 to 7 that four bits hold


def rounded_view(model: "PreTrainedModel") -> "PreTrainedModel | None":
    """Return a view of ``model`` whose layers' matrices are rounded to four bits.

    Each module rounds its own as it is called, and drops what came of it: no second model is in memory.
    Embeddings and heads stay as they are, as quantisers leave them.

    Args:
        model: The base model.

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
        _round_when_called(copies[path], attributes)
    view: PreTrainedModel = copies.model
    return view


def round_to_four_bits(weight: Tensor) -> Tensor:
    """Round each group of 32 values to 15 levels, from minus its largest to its largest.

    Args:
        weight: [..., N] N is taken as one group where 32 does not divide it.
    """
    width = weight.shape[-1]
    groups = weight.detach().float().reshape(-1, _GROUP if width % _GROUP == 0 else width)
    step = groups.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    step = step / _LARGEST
    return ((groups / step).round() * step).reshape(weight.shape).to(weight.dtype)


def _round_when_called(module: nn.Module, attributes: list[str]) -> None:
    plain = {name: module._parameters[name] for name in attributes}  # noqa: SLF001

    def before(module: nn.Module, _inputs: Any) -> None:
        for name, parameter in plain.items():
            if parameter is not None:
                rounded = nn.Parameter(round_to_four_bits(parameter), requires_grad=False)
                module._parameters[name] = rounded  # noqa: SLF001

    def after(module: nn.Module, _inputs: Any, _output: Any) -> None:
        module._parameters.update(plain)  # noqa: SLF001

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
