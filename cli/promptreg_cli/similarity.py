"""``promptreg similar``: the closest registered prompts."""

from typing import TYPE_CHECKING, Any

import click

from promptreg_cli import at_hand, output
from promptreg_cli.main import Settings, pass_settings
from promptreg_cli.parameters import BASE, REFERENCE

if TYPE_CHECKING:
    from promptreg.tuning import Neighbour

__all__ = ["COMMANDS", "similar"]


@click.command()
@click.argument("reference", metavar="REF", type=REFERENCE)
@click.option("--base", type=BASE, help="The base model, where REF is an alias on several.")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True,
              help="How many at most.")  # fmt: skip
@click.option("--other-tasks", is_flag=True, help="Leave out the prompts of REF's own task.")
@output.json_option
@pass_settings
def similar(
    settings: Settings,
    reference: str,
    base: str | None,
    limit: int,
    other_tasks: bool,
    as_json_lines: bool,
) -> None:
    """Find the registered prompts that are closest to the prompt REF, on the same base model.

    They are ranked by the cosine of their mean tokens; PER TOKEN is the mean cosine of all pairs of tokens.
    Both are SPoT's, taken from the prompts as they were early in their training if both were kept. CENTRED is
    the first cosine as seen from the mean of all tasks, which takes away what all prompts of a base model have
    in common. What is low by either view says little, and that is said. The first time, all prompts of the base
    model are read.

    \b
    Example:
      promptreg similar sst2@prod --other-tasks
    """
    from promptreg.tuning import similar as find

    with settings.registry() as registry, output.progress("reading prompts", count=True) as advance:
        known = at_hand.registered(base)
        own = [registry.resolve(reference, base=known).task] if other_tasks else []
        found = find(
            registry, reference, base=known, limit=limit, exclude_tasks=own, progress=advance
        )
    for line in found.notes:
        output.note(line)
    if as_json_lines:
        for each in found.neighbours:
            output.as_json(_fields(each))
        return
    if found.neighbours:
        headers = ["REF", "COSINE", "PER TOKEN", "CENTRED", "TASK", "COMPARED", "TOKENS", "KIN"]
        spare = ["TOKENS", "COMPARED", "PER TOKEN", "KIN"]
        output.table(headers, [_row(each) for each in found.neighbours], spare=spare)
    click.echo(found.verdict)


def _row(each: "Neighbour") -> list[str]:
    return [
        each.version.ref,
        f"{each.cosine:.3f}",
        f"{each.per_token:.3f}",
        "" if each.centred is None else f"{each.centred:.3f}",
        "same" if each.same_task else "other",
        each.compared.value,
        str(each.version.num_virtual_tokens),
        each.kin or "",
    ]


def _fields(each: "Neighbour") -> dict[str, Any]:
    return {
        "ref": each.version.ref,
        "digest": str(each.version.digest),
        "cosine": each.cosine,
        "per_token": each.per_token,
        "centred": each.centred,
        "compared": each.compared.value,
        "same_task": each.same_task,
        "kin": each.kin,
        "weak": None if each.weak is None else each.weak.value,
    }


COMMANDS = (similar,)
