"""Freezing a base model while prompts are attached to it, and thawing it when the last is detached."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["freeze", "thaw"]


@dataclass(slots=True, kw_only=True)
class _Before:
    """How a base model was before it was frozen.

    Attributes:
        holders: How many prompted models keep it frozen.
        trainable: The parameters that required a gradient, by the paths of their modules and their names there.
            Not the parameters: a reference to the model from here would keep it alive for ever.
        training: The paths of the modules that were in training mode.
    """

    holders: int
    trainable: set[tuple[str, str]]
    training: set[str]


_frozen: WeakKeyDictionary[nn.Module, _Before] = WeakKeyDictionary()
_lock = threading.Lock()


def freeze(model: nn.Module) -> None:
    """Let no parameter of ``model`` require a gradient, and put it into evaluation mode.

    Freezing it again only counts: it thaws when each holder has called ``thaw``.
    """
    with _lock:
        if model in _frozen:
            _frozen[model].holders += 1
            return
        trainable, training = set(), set()
        for path, module in model.named_modules():
            if module.training:
                training.add(path)
            for name, parameter in _own(module):
                if parameter.requires_grad:
                    trainable.add((path, name))
        _frozen[model] = _Before(holders=1, trainable=trainable, training=training)
        for _, module in model.named_modules():
            # Compared first: a module sets its attributes slowly.
            if module.training:
                module.training = False
            for _, parameter in _own(module):
                if parameter.requires_grad:
                    parameter.requires_grad_(False)


def thaw(model: nn.Module) -> None:
    """Undo one ``freeze``: the last one gives each parameter and module back what the first one took.

    What others set in the meantime stays: a module in training mode, a parameter that requires a gradient.
    """
    with _lock:
        before = _frozen.get(model)
        if before is None:
            return
        before.holders -= 1
        if not before.holders:
            del _frozen[model]
            _give_back(model, before)


def _own(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in module._parameters.items():  # noqa: SLF001
        if parameter is not None:
            yield name, parameter


def _give_back(model: nn.Module, before: _Before) -> None:
    for path, module in model.named_modules():
        if path in before.training and not module.training:
            module.training = True
        for name, parameter in _own(module):
            if (path, name) in before.trainable and not parameter.requires_grad:
                parameter.requires_grad_()
