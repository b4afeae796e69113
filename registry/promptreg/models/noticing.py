"""Noticing, cheaply, what makes a base model compute something else than its weights say."""

from promptreg.models.anatomy import Anatomy, Kind

__all__ = ["notice"]


def notice(anatomy: Anatomy) -> tuple[str, ...]:
    """Return what is unusual about how the base model runs, a phrase each.

    No fingerprint shows it, and none of it must be wrong: accelerate moves layers by replacing their forward
    passes, and gradient checkpointing may hang a hook on the embedding.
    """
    from torch import nn

    hooked, replaced = [], []
    depths: set[int] = set()
    stack = ""
    for path, module in anatomy.model.named_modules():
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())  # noqa: SLF001
        # transformers hangs hooks of its own on layers, once it is asked for hidden states.
        if any(not _is_from("transformers", hook) for hook in hooks):
            hooked.append(path)
        if "forward" in vars(module):
            replaced.append(path)
        if isinstance(module, nn.ModuleList) and not (stack and path.startswith(stack)):
            stack = f"{path}."
            depths.add(len(module))
    notes = []
    if hooked:
        notes.append(f"{_some(hooked)} forward hooks")
    if replaced:
        notes.append(f"{_some(replaced)} a forward pass of its own in place of its class's")
    layers = getattr(anatomy.model.config, "num_hidden_layers", None)
    # Encoders may run one layer many times over (ALBERT).
    if anatomy.kind is Kind.DECODER and layers is not None and depths and layers not in depths:
        notes.append(f"it has {max(depths)} layers, and its config says {layers}")
    return tuple(notes)


def _is_from(package: str, hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).partition(".")[0] == package


def _some(paths: list[str]) -> str:
    first = paths[0] or "the model itself"
    return f"{first} and {len(paths) - 1} more modules have" if paths[1:] else f"{first} has"
