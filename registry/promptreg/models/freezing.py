"""Freezing a base model while prompts are attached to it, and thawing it when the last is detached."""

import threading
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["freeze", "thaw", "trainable"]


@dataclass(slots=True, kw_only=True)
class _Before:
    """How a base model was before it was frozen.

    Attributes:
        holders: How many prompted models keep it frozen.
        trainable: The names of the parameters that required a gradient. Names, not parameters: a reference to
            the model from here would keep it alive for ever.
        training: The names of the modules that were in training mode.
    """

    holders: int
    trainable: frozenset[str]
    training: frozenset[str]


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
        _frozen[model] = _Before(
            holders=1,
            trainable=frozenset(n for n, p in model.named_parameters() if p.requires_grad),
            training=frozenset(n for n, m in model.named_modules() if m.training),
        )
        model.requires_grad_(requires_grad=False)
        model.eval()


def thaw(model: nn.Module) -> None:
    """Undo one ``freeze``: the last one gives each parameter and module back what it had."""
    with _lock:
        before = _frozen.get(model)
        if before is None:
            return
        before.holders -= 1
        if before.holders:
            return
        del _frozen[model]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in before.trainable)
        for name, module in model.named_modules():
            module.training = name in before.training


def trainable(model: nn.Module) -> str | None:
    """Return the name of the first parameter of ``model`` that requires a gradient, or None."""
    # Asked on every call, so first in the cheapest way: names are made only when there is one to tell.
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return None
    return next(name for name, parameter in model.named_parameters() if parameter.requires_grad)
