"""``promptreg pull`` and ``promptreg check``: fetch a prompt, prove that a base model fits."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from promptreg_cli import at_hand, output
from promptreg_cli.main import Settings, pass_settings
from promptreg_cli.parameters import BASE, REFERENCE

if TYPE_CHECKING:
    from promptreg.prompts import PulledPrompt

__all__ = ["COMMANDS", "check", "pull"]

_FORMATS = ("peft", "safetensors", "npy", "tensorrt-llm")


@click.command()
@click.argument("reference", metavar="REF", type=REFERENCE)
@click.argument("destination", metavar="[DEST]", required=False, type=click.Path(path_type=Path))
@click.option("--base", type=BASE, help="The base model at hand, where REF is an alias on several.")
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="peft",
    show_default=True,
    help="What to write.",
)
@output.json_option
@pass_settings
def pull(
    settings: Settings,
    reference: str,
    destination: Path | None,
    base: str | None,
    form: str,
    as_json_lines: bool,
) -> None:
    """Fetch the prompt REF, check every byte, and write it to DEST.

    Without DEST it is written beside you, named after its task and version: ./sst2-3 for sst2@3.

    \b
    Example:
      promptreg pull sst2@prod ./sst2-prompt
    """
    from promptreg import artifacts

    with settings.registry() as registry:
        pulled = registry.pull(reference, base=at_hand.registered(base))
    version = pulled.version
    if destination is None:
        suffix = ".npy" if form == "npy" else ""
        destination = Path(f"{version.task.replace('/', '-')}-{version.version}{suffix}")
    for line in artifacts.write(
        pulled.prompt, destination, form, base=pulled.base, name=version.task
    ):
        output.note(line)
    if version.yanked is not None:
        output.note(f"warning: {version.ref} was yanked: {version.yanked.reason}")
    if as_json_lines:
        output.as_json(output.version_fields(version) | {"path": str(destination), "format": form})
    else:
        click.echo(f"pulled {version.ref}  {version.digest}  to {destination}")


@click.command()
@click.argument("reference", metavar="REF", type=REFERENCE)
@click.option(
    "--base",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The directory of the base model at hand.",
)
@click.option("--canary", is_flag=True, help="Replay the recorded outputs too: the real test.")
@click.option("--no-cache", is_flag=True, help="Read every weight again.")
@output.json_option
@pass_settings
def check(
    settings: Settings,
    reference: str,
    base: Path,
    canary: bool,
    no_cache: bool,
    as_json_lines: bool,
) -> None:
    """Check that the prompt REF is whole and fits the base model in a directory.

    Every byte of the prompt is read and hashed, and every weight of the base model is compared with the
    one that the prompt was trained on. Exit 1 if anything differs.

    \b
    Example:
      promptreg check sst2@prod --base ./gemma-3-270m --canary
    """
    from promptreg.errors import IncompatibleModelError
    from promptreg.fingerprints import Verdict, compare

    with settings.registry() as registry:
        actual = at_hand.fingerprint(base, cache=not no_cache)
        pulled = at_hand.pull_for(registry, reference, str(actual.fingerprint))
    if pulled.base.table is None or actual.table is None:
        raise AssertionError("a pulled base and a fingerprinted one have their tables")
    comparison = compare(pulled.base.table, actual.table)
    outcome = None
    if canary:
        outcome = _replay(base, pulled)
    fields = {
        "ref": pulled.version.ref,
        "digest": str(pulled.version.digest),
        "expected": str(pulled.base.fingerprint),
        "actual": str(actual.fingerprint),
        "verdict": comparison.verdict.value,
        "differing": list(comparison.differing),
        "canary": outcome,
    }
    if as_json_lines:
        output.as_json(fields)
    if comparison.verdict is not Verdict.EXACT:
        raise IncompatibleModelError(
            str(pulled.base),
            str(actual.fingerprint.short) + "…",
            comparison.verdict.value,
            comparison.differing[:5],
            max(0, len(comparison.differing) - 5),
        )
    if not as_json_lines:
        click.echo(f"{pulled.version.ref} is whole and fits {base}: {comparison.verdict.value}")
        if outcome is not None:
            click.echo(f"canary: {outcome}")


def _replay(base: Path, pulled: "PulledPrompt") -> str:
    """Replay the recorded outputs; return what came of it, if they came back."""
    from promptreg.errors import CanaryError
    from promptreg.models import load_base, replay_canary

    with output.working("replaying the canary"):
        outcome = replay_canary(load_base(base, pulled.prompt), pulled)
    if not outcome.passed:
        remedy = f"use the base model that it was trained on, {pulled.base}"
        raise CanaryError(pulled.version.ref, str(outcome), remedy)
    return str(outcome)


COMMANDS = (pull, check)
