"""Watching a frozen base model: is it, at each call, what it was when the prompt was attached?"""

from collections.abc import Iterator

from torch import nn

from promptreg.errors import AttachError

__all__ = ["Watch"]

_SHOWN = 5
_Facts = dict[tuple[int, str], tuple[int | None, ...]]


class Watch:
    """What a base model is at one time, told cheaply enough to ask again before every call.

    Of each parameter it is the identity, the address and the version counter: so an optimizer's step, a state
    that was loaded, a write in place, and parameters, data or layers that were replaced are all seen. A write
    through ``.data`` (``weight.data[0] = 1``) leaves the three as they are, and is not.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        # Kept, so that no other module or parameter can get the identity of one of them.
        self._modules = _walk(model)
        self._parameters = list(model.parameters())
        self._facts = _facts(self._modules)

    def check(self) -> None:
        """Check that the model is frozen still, and has the weights that it had.

        Raises:
            AttachError: It is not, or has others.
        """
        modules = _walk(self._model)
        for module in modules:
            if module.training:
                path = self._path(module)
                raise self._refuse(
                    f"{f'its {path}' if path else 'it'} is in training mode",
                    "call eval() on the base model",
                )
            for name, parameter in _own(module):
                if parameter.requires_grad:
                    path = self._path(module)
                    raise self._refuse(
                        f"its {f'{path}.{name}'.lstrip('.')} requires a gradient",
                        "call requires_grad_(False) on it",
                    )
        facts = _facts(modules)
        if facts != self._facts:
            raise AttachError(
                f"the base model's weights changed while the prompt was attached: {self._changed(facts)}",
                "detach and attach again, which proves the base anew",
            )

    def _refuse(self, found: str, remedy: str) -> AttachError:
        return AttachError(
            f"the base model is frozen while a prompt is attached, and {found}",
            f"{remedy}, or detach the prompt to train the base model",
        )

    def _path(self, module: nn.Module) -> str:
        return next((path for path, known in self._model.named_modules() if known is module), "")

    def _changed(self, facts: _Facts) -> str:
        """Return the names of the parameters that are not what they were, the first few of them."""
        changed = {
            key
            for key in facts.keys() | self._facts.keys()
            if facts.get(key) != self._facts.get(key)
        }
        names = [
            f"{path}.{name}".lstrip(".")
            for path, module in self._model.named_modules()
            for name, _ in _own(module)
            if (id(module), name) in changed
        ]
        if not names:
            return f"{len(changed)} parameters are gone"
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return ", ".join(names[:_SHOWN]) + more


def _walk(model: nn.Module) -> list[nn.Module]:
    """Return ``model`` and the modules in it: ``modules()``, three times as fast."""
    found: dict[int, nn.Module] = {}
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = module
            waiting.extend(module._modules.values())  # noqa: SLF001
    return list(found.values())


def _own(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in module._parameters.items():  # noqa: SLF001
        if parameter is not None:
            yield name, parameter


def _facts(modules: list[nn.Module]) -> _Facts:
    """Return what each parameter is, by its module's identity and its name there.

    An offloaded one, on the meta device between calls, is replaced by each call and tells nothing; a quantised
    one, of a class of its own, may arrange its memory anew as it is first used.
    """
    return {
        (id(module), name): _fact(parameter)
        for module in modules
        for name, parameter in _own(module)
        if not parameter.is_meta
    }


def _fact(parameter: nn.Parameter) -> tuple[int | None, ...]:
    if type(parameter) is not nn.Parameter:
        return (id(parameter),)
    # What was made in inference mode has no version counter.
    version = None if parameter.is_inference() else parameter._version  # noqa: SLF001
    return id(parameter), parameter.data_ptr(), version
