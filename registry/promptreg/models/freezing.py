"""Freezing a base model while prompts are attached to it, and thawing it when the last is detached."""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["freeze", "holders_of_parameters", "thaw", "trainable"]


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
        _apply(model, set(), set())


def thaw(model: nn.Module) -> None:
    """Undo one ``freeze``: the last one gives each parameter and module back what it had."""
    with _lock:
        before = _frozen.get(model)
        if before is None:
            return
        before.holders -= 1
        if not before.holders:
            del _frozen[model]
            _apply(model, before.trainable, before.training)


def holders_of_parameters(model: nn.Module) -> tuple[nn.Module, ...]:
    """Return the modules in ``model`` that have parameters of their own."""
    return tuple(module for module in model.modules() if any(_own(module)))


def trainable(modules: Iterable[nn.Module]) -> tuple[nn.Module, str] | None:
    """Return the first parameter of ``modules`` that requires a gradient: its module and its name there."""
    for module in modules:
        for name, parameter in _own(module):
            if parameter.requires_grad:
                return module, name
    return None


def _own(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in module._parameters.items():  # noqa: SLF001
        if parameter is not None:
            yield name, parameter


def _apply(model: nn.Module, trainable: set[tuple[str, str]], training: set[str]) -> None:
    """Let these parameters and no others require a gradient, and these modules be in training mode."""
    for path, module in model.named_modules():
        # Compared first: a module sets its attributes slowly, and nearly all are right already.
        if module.training != (path in training):
            module.training = path in training
        for name, parameter in _own(module):
            if parameter.requires_grad != ((path, name) in trainable):
                parameter.requires_grad_((path, name) in trainable)
