"""Views of a base model: the same weights but for a few, the base model itself left as it is.

Only the modules on the way to those few are copied, and no tensor of theirs. So a view costs next to nothing,
and the base model can be used at the same time, also from another thread.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["Copies", "replaced", "shape_of", "with_parameters"]

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
        parameters: What to put in the place of its parameters of these names. A quantised linear layer, whose
            parameters are no tensors of their own, is replaced by a plain one.
    """
    copies = Copies(model)
    owners: dict[str, dict[str, Tensor]] = {}
    for name, tensor in parameters.items():
        path, _, attribute = name.rpartition(".")
        owners.setdefault(path, {})[attribute] = tensor
    for path, own in owners.items():
        if any(_plain_shape(model.get_submodule(path), name) is None for name in own):
            parent, _, name = path.rpartition(".")
            copies[parent]._modules[name] = _linear(own)  # noqa: SLF001
            continue
        for name, tensor in own.items():
            # The tensor itself, not a Parameter made of it: a gradient may be wanted of it.
            copies[path].__dict__["_parameters"][name] = tensor
    view: _Module = copies.model
    return view


def replaced(model: _Module, modules: Mapping[str, nn.Module]) -> _Module:
    """Return ``model`` as it would be with other modules at these paths."""
    copies = Copies(model)
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        copies[parent]._modules[name] = module  # noqa: SLF001
    view: _Module = copies.model
    return view


def shape_of(model: nn.Module, name: str) -> tuple[int, ...] | None:
    """Return the shape of the parameter ``name`` of ``model``, also in a quantised linear layer.

    Returns:
        None if there is no such parameter.
    """
    path, _, attribute = name.rpartition(".")
    try:
        owner: Any = model.get_submodule(path)
    except AttributeError:
        return None
    plain = _plain_shape(owner, attribute)
    if plain is not None or not (hasattr(owner, "in_features") and hasattr(owner, "out_features")):
        return plain
    shapes = {"weight": (owner.out_features, owner.in_features), "bias": (owner.out_features,)}
    return shapes.get(attribute)


def _plain_shape(module: nn.Module, name: str) -> tuple[int, ...] | None:
    """Return the shape of the module's own parameter ``name``, if it is one of floating-point numbers."""
    parameter = module._parameters.get(name)  # noqa: SLF001
    if parameter is None or not parameter.is_floating_point():
        return None
    return tuple(parameter.shape)


def _linear(parameters: Mapping[str, Tensor]) -> nn.Linear:
    """Return a linear layer with these parameters."""
    outputs, inputs = parameters["weight"].shape
    layer = nn.Linear(inputs, outputs, bias="bias" in parameters, device="meta")
    for name, tensor in parameters.items():
        setattr(layer, name, nn.Parameter(tensor, requires_grad=False))
    return layer.eval()


def _shallow_copy(module: nn.Module) -> nn.Module:
    copy = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    for name, value in module.__dict__.items():
        # A module's registries (of children, parameters, hooks) are its own; what is in them is shared.
        if isinstance(value, dict):
            copy.__dict__[name] = value.copy()
    return copy
