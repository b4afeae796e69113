"""``promptreg push``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from promptreg_cli import at_hand, output
from promptreg_cli.main import Settings, pass_settings
from promptreg_cli.parameters import BASE, REFERENCE, TASK, KeyValue, pairs

if TYPE_CHECKING:
    from promptreg.bases import BaseModel
    from promptreg.canaries import Canary
    from promptreg.prompts import Scalar, SoftPrompt

__all__ = ["COMMANDS", "push"]


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--task", required=True, type=TASK, help="What the prompt is for: sst2, acme/mail-spam."
)
@click.option(
    "--base",
    required=True,
    type=BASE,
    help="The base model: its directory, its fingerprint, or the name of a registered one.",
)
@click.option(
    "--hyperparameter", "-H", "hyperparameters", multiple=True, type=KeyValue(), help="Repeatable."
)
@click.option(
    "--metric", "-m", "metrics", multiple=True, type=KeyValue(numbers_only=True), help="Repeatable."
)
@click.option("--alias", "-a", "aliases", multiple=True, help="A name to set on it. Repeatable.")
@click.option("--template", help="The text around the input, with {text} where it goes.")
@click.option("--label", "labels", multiple=True, help="A label word. Repeatable, in order.")
@click.option("--parent", type=REFERENCE, help="The version that it was started from.")
@click.option("--note", help="Free text.")
@click.option(
    "--canary/--no-canary",
    default=True,
    help="Record what prompt and base give on a few inputs, if --base is a directory.",
)
@output.json_option
@pass_settings
def push(
    settings: Settings,
    path: Path,
    task: str,
    base: str,
    hyperparameters: "tuple[tuple[str, Scalar], ...]",
    metrics: "tuple[tuple[str, Scalar], ...]",
    aliases: tuple[str, ...],
    template: str | None,
    labels: tuple[str, ...],
    parent: str | None,
    note: str | None,
    canary: bool,
    as_json_lines: bool,
) -> None:
    """Register the soft prompt at PATH as the next version of a task.

    PATH is a PEFT directory, a .safetensors file or a T5X .npy file. The same prompt pushed again is the
    version that exists.

    \b
    Example:
      promptreg push ./my-prompt --task sst2 --base ./gemma-3-270m --metric accuracy=0.93 --alias prod
    """
    from promptreg import artifacts
    from promptreg.names import check_alias, check_task

    check_task(task)
    for alias in aliases:
        check_alias(alias)
    facts = {
        "hyperparameters": pairs(hyperparameters, "--hyperparameter"),
        "metrics": pairs(metrics, "--metric"),
    }
    prompt = artifacts.read(path)
    with settings.registry() as registry:
        at = at_hand.directory(base)
        known = base if at is None else at_hand.name(registry, at_hand.fingerprint(at))
        pushed = registry.push(
            prompt,
            task=task,
            base=known,
            aliases=aliases,
            template=template,
            labels=labels,
            parent=parent,
            note=note,
            canary=_record(at, prompt, known) if canary else None,
            **facts,
        )
    for line in prompt.notes:
        output.note(line)
    output.pushed(pushed, as_json_lines=as_json_lines)


def _record(at: Path | None, prompt: "SoftPrompt", base: "BaseModel | str") -> "Canary | None":
    """Run the base model with the prompt on a few inputs, if it is at hand."""
    from promptreg.prompts import Method

    if at is None or isinstance(base, str) or prompt.method is Method.ENSEMBLE:
        return None  # an ensemble's members have canaries of their own
    from promptreg.fitting import check_shape, for_base
    from promptreg.models import load_base, record_canary

    prompt = for_base(prompt, base)
    check_shape(prompt, base)  # before any weights are loaded
    with output.working(
        "recording the canary: the base model runs with the prompt (--no-canary: not)"
    ):
        return record_canary(load_base(at, prompt), prompt)


COMMANDS = (push,)
