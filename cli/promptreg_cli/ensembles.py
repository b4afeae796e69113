"""``promptreg ensemble``."""

from typing import TYPE_CHECKING

import click

from promptreg_cli import at_hand, output
from promptreg_cli.main import Settings, pass_settings
from promptreg_cli.parameters import BASE, REFERENCE, TASK, KeyValue, pairs

if TYPE_CHECKING:
    from promptreg.prompts import Scalar

__all__ = ["COMMANDS", "ensemble"]


@click.command()
@click.argument("members", metavar="REF REF...", nargs=-1, required=True, type=REFERENCE)
@click.option(
    "--task", type=TASK, help="The task it becomes a version of, if not its members' own."
)
@click.option(
    "--vote",
    type=click.Choice(("majority", "mean")),
    default="majority",
    show_default=True,
    help="The answer of most members, or that of the highest mean probability.",
)
@click.option("--base", type=BASE, help="The base model, where a REF is an alias on several.")
@click.option(
    "--metric", "-m", "metrics", multiple=True, type=KeyValue(numbers_only=True), help="Repeatable."
)
@click.option("--alias", "-a", "aliases", multiple=True, help="A name to set on it. Repeatable.")
@click.option("--note", help="Free text.")
@output.json_option
@pass_settings
def ensemble(
    settings: Settings,
    members: tuple[str, ...],
    task: str | None,
    vote: str,
    base: str | None,
    metrics: "tuple[tuple[str, Scalar], ...]",
    aliases: tuple[str, ...],
    note: str | None,
    as_json_lines: bool,
) -> None:
    """Register the prompts REF REF... of one task as an ensemble that answers by vote.

    The ensemble is a version like any other, and holds its members as they are now: it stays what it is when an
    alias moves on or a member is yanked.

    \b
    Example:
      promptreg ensemble sst2@3 sst2@5 sst2@8 --vote mean --alias prod
    """
    with settings.registry() as registry:
        pushed = registry.push_ensemble(
            members,
            task=task,
            vote=vote,
            base=at_hand.registered(base),
            metrics=pairs(metrics, "--metric"),
            aliases=aliases,
            note=note,
        )
    output.pushed(pushed, as_json_lines=as_json_lines)


COMMANDS = (ensemble,)
