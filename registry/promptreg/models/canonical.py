"""Canonical names: what a weight is called, however its model was loaded and whatever is wrapped around it."""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from promptreg.errors import UnreadableBaseModelError
from promptreg.fingerprints import Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from transformers import PreTrainedModel

__all__ = ["Naming", "is_head", "walk", "walk_modules"]

_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_ADAPTED = ("base_layer", "original_module", "token_adapter")
_HEADS = {
    "classification_head", "classifier", "cls", "embed_out", "generator_lm_head", "lm_head", "pooler",
    "pre_classifier", "qa_outputs", "score",
}  # fmt: skip


def is_head(name: str) -> bool:
    """Return whether a weight of that name, without its backbone's prefix, stands on the backbone."""
    return name.partition(".")[0] in _HEADS


def walk_modules(module: "torch.nn.Module") -> list[tuple[str, "torch.nn.Module"]]:
    """Return every module under ``module`` with its name, looking through wrappers and past adapters.

    ``torch.compile`` and checkpointing put a module of their own around another one; PEFT puts a layer around
    the one that it adapts, with the adapter's parameters beside it. Neither belongs to the base model.
    """
    found = []
    waiting = [("", module)]
    while waiting:
        path, outer = waiting.pop()
        inner = _innermost(outer)
        found.append((path, inner))
        prefix = f"{path}." if path else ""
        children = inner._modules.items()  # noqa: SLF001  (named_children leaves out duplicates)
        waiting += [
            (prefix + name, child) for name, child in reversed(children) if child is not None
        ]
    return found


def walk(
    modules: "Iterable[tuple[str, torch.nn.Module]]",
) -> "Iterator[tuple[str, torch.Tensor]]":
    """Yield every weight of these modules by its name; one that is used twice comes twice.

    The weights are the parameters, and the floating buffers that are saved and loaded with them (such as the
    running means of a normalisation, or the biases that balance the experts of a router).
    """
    for path, module in modules:
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():  # noqa: SLF001
            if parameter is not None:
                yield prefix + name, parameter
        for name, buffer in module._buffers.items():  # noqa: SLF001
            saved = name not in module._non_persistent_buffers_set  # noqa: SLF001
            if buffer is not None and saved and buffer.is_floating_point():
                yield prefix + name, buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How the weights of one model are called.

    Attributes:
        prefix: What its class puts in front of the backbone's names: ``model.``; empty for a bare backbone.
        embedding: The canonical name of the input embedding's weight.
        output: The canonical name of the output head's weight, if its class has an output head.
    """

    prefix: str
    embedding: str
    output: str | None

    @classmethod
    def of(cls, model: "PreTrainedModel") -> "Naming":
        """Return how the weights of ``model`` are called.

        Raises:
            UnreadableBaseModelError: It has no input embedding, so no prompt fits in front of its input.
        """
        modules = walk_modules(model)
        untyped: Any = model
        try:
            embedding = _find(modules, untyped.get_input_embeddings())
        except (AttributeError, NotImplementedError):
            embedding = None
        if embedding is None:
            reason = (
                f"a {type(model).__name__} has no input embedding, so a prompt has no place in it"
            )
            raise UnreadableBaseModelError(type(model).__name__, reason, "give a model of text")
        prefix = next((p for p in _prefixes(model) if embedding.startswith(p)), "")
        output = _find(modules, untyped.get_output_embeddings())
        return cls(
            prefix=prefix,
            embedding=embedding.removeprefix(prefix),
            output=output.removeprefix(prefix) if output else None,
        )

    def canonical(self, name: str) -> str:
        """Return the canonical name of the weight that ``walk`` calls ``name``."""
        return name.removeprefix(self.prefix)

    def part(self, name: str) -> Part:
        """Return the part that the weight that ``walk`` calls ``name`` belongs to."""
        canonical = self.canonical(name)
        if canonical == self.embedding:
            return Part.EMBEDDING
        stands_on_it = not name.startswith(self.prefix) or is_head(canonical)
        return Part.HEAD if stands_on_it or canonical == self.output else Part.BODY


def _prefixes(model: "PreTrainedModel") -> "Iterator[str]":
    """Yield what may stand in front of the names of the backbone, if ``model`` is not the backbone itself."""
    from transformers import MODEL_MAPPING

    backbone: Any = MODEL_MAPPING.get(type(model.config), None)
    yield f"{model.base_model_prefix}."
    # A few classes name a prefix that they do not use: then it is what holds the class that AutoModel loads.
    for name, child in model.named_children():
        if type(_innermost(child)) is backbone:
            yield f"{name}."


def _innermost(module: "torch.nn.Module") -> "torch.nn.Module":
    """Return the module that ``module`` is only a wrapper around, or itself."""
    while True:
        children = module._modules  # noqa: SLF001
        names = _ADAPTED if _is_pefts(type(module).__module__) else _WRAPPERS
        inner = next((children[name] for name in names if children.get(name) is not None), None)
        if inner is None:
            return module
        module = inner


@cache
def _is_pefts(module: str) -> bool:
    return module.partition(".")[0] == "peft"


def _find(
    modules: "Iterable[tuple[str, torch.nn.Module]]", module: "torch.nn.Module | None"
) -> str | None:
    """Return the name of the weight of ``module``, among ``modules``."""
    if module is None:
        return None
    wanted = _innermost(module)
    if wanted._parameters.get("weight") is None:  # noqa: SLF001
        return None
    return next((f"{path}.weight" for path, inner in modules if inner is wanted), None)
