"""Views of a base model: the same weights but for a few, the base model itself left as it is.

Only the modules on the way to those few are copied, and no tensor of theirs. So a view costs next to nothing,
and the base model can be used at the same time, also from another thread.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["Copies", "with_parameters"]

_Module = TypeVar("_Module", bound=nn.Module)


class Copies:
    """Copies of a model and of modules in it, made as they are asked for.

    Attributes:
        model: The copy of the model: the view.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = _shallow_copy(model)
        self._by_path: dict[str, nn.Module] = {"": self.model}

    def __getitem__(self, path: str) -> nn.Module:
        """Return the copy of the module at ``path``, after copying what leads to it."""
        if path not in self._by_path:
            parent_path, _, name = path.rpartition(".")
            parent = self[parent_path]
            copy = _shallow_copy(parent.get_submodule(name))
            parent._modules[name] = copy  # noqa: SLF001
            self._by_path[path] = copy
        return self._by_path[path]


def with_parameters(model: _Module, parameters: Mapping[str, Tensor]) -> _Module:
    """Return ``model`` as it would be with other parameters.

    Args:
        model: The base model.
        parameters: What to put in the place of its parameters of these names.
    """
    copies = Copies(model)
    for name, tensor in parameters.items():
        path, _, attribute = name.rpartition(".")
        owner = copies[path]
        owner._parameters[attribute] = nn.Parameter(tensor, requires_grad=False)  # noqa: SLF001
    view: _Module = copies.model
    return view


def _shallow_copy(module: nn.Module) -> nn.Module:
    copy = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    for name, value in module.__dict__.items():
        # A module's registries (of children, parameters, hooks) are its own; what is in them is shared.
        if isinstance(value, dict):
            copy.__dict__[name] = value.copy()
    return copy
