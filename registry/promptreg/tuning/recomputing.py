"""Computing activations anew in the backward pass: less memory for a third more time."""

from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from promptreg.errors import TuningError
from promptreg.models.views import replaced

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["recomputing"]

_Module = TypeVar("_Module", bound=nn.Module)


def recomputing(model: _Module) -> _Module:
    """Return ``model`` with layers that keep their input alone, and compute the rest anew when it is needed.

    The base model's own switch (``gradient_checkpointing_enable``) works in training mode only, where its
    dropout would too; a frozen base model stays in evaluation mode.

    Raises:
        TuningError: transformers does not tell which modules are this model's layers.
    """
    layers: Mapping[str, nn.Module] = {
        path: _Recomputing(module)
        for path, module in model.named_modules()
        if isinstance(module, GradientCheckpointingLayer)
    }
    if not layers:
        raise TuningError(
            f"a {type(model).__name__} has no layers that transformers can compute anew",
            "leave --recompute out",
        )
    return replaced(model, layers)


class _Recomputing(nn.Module):
    """A layer whose activations are computed anew in the backward pass."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.eval()

    def forward(self, *given: Any, **named: Any) -> Any:
        """Run the layer."""
        return checkpoint(self.layer, *given, use_reentrant=False, **named)

    def __getattr__(self, name: str) -> Any:
        # A model asks its layers for what they are (a layer's attention type).
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)
