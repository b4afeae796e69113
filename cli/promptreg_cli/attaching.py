"""Pulling prompts and attaching them to the base model in a directory, for commands that run it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from promptreg_cli import at_hand, output
from promptreg_cli.main import Settings

if TYPE_CHECKING:
    from promptreg.models import PromptedModel
    from promptreg.prompts import PulledPrompt

__all__ = ["attached", "choose_device", "device_option", "dtype_option", "policy_option", "pull"]

device_option = click.option(
    "--device",
    type=click.Choice(("auto", "cpu", "cuda", "mps")),
    default="auto",
    show_default=True,
    help="Where the base model runs.",
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(("auto", "float32", "bfloat16", "float16")),
    default="auto",
    show_default=True,
    help="What the base model's numbers are; auto: as they are stored.",
)
policy_option = click.option(
    "--policy",
    type=click.Choice(("exact", "same-embedding", "same-shape", "canary")),
    default="exact",
    show_default=True,
    help="What the base model must prove.",
)


def pull(settings: Settings, names: Sequence[str], base: Path) -> "dict[str, PulledPrompt]":
    """Pull all prompts, for the base model in the directory where an alias would be of several."""
    if not names:
        return {}
    with settings.registry() as registry:
        fingerprint = str(at_hand.fingerprint(base).fingerprint)
        return {name: at_hand.pull_for(registry, name, fingerprint) for name in names}


def attached(
    base: Path, pulled: "dict[str, PulledPrompt]", *, policy: str, device: str, dtype: str
) -> "PromptedModel":
    """Load the base model and attach all prompts, each under the reference that lines name it by."""
    at_hand.quiet_transformers()
    from promptreg.models import attach, load_base

    kinds = {each.prompt.task_type for each in pulled.values()}
    if len(kinds) > 1:
        listed = ", ".join(f"{name} ({each.prompt.task_type})" for name, each in pulled.items())
        raise click.ClickException(
            f"the prompts want base models of several kinds: {listed}; run them apart"
        )
    first = next((each.prompt for each in pulled.values()), None)
    with output.working(f"loading {base.name}"):
        model: Any = load_base(base, first, dtype=dtype)
        model.to(choose_device(device))
        prompted = attach(model, policy=policy)
    from promptreg.errors import IncompatibleModelError

    try:
        for name, each in pulled.items():
            try:
                prompted.add(each, name=name, warm=False)
            except IncompatibleModelError:
                if dtype != "auto":
                    output.note(
                        f"note: --dtype {dtype} may round the base model's weights; try auto"
                    )
                raise
            if each.version.yanked is not None:
                reason = each.version.yanked.reason
                output.note(f"warning: {each.version.ref} was yanked: {reason}")
    except BaseException:
        prompted.detach()
        raise
    return prompted


def choose_device(device: str) -> str:
    """Return the device of that name, if torch sees it; for ``auto`` the best one that it sees."""
    import torch

    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[device]:
        raise click.ClickException(f"torch sees no {device} device here; use --device cpu")
    return device
