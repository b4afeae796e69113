"""``promptreg inspect``: which words of the vocabulary a prompt's virtual tokens are near to."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from promptreg_cli import at_hand, output
from promptreg_cli.main import Settings, pass_settings
from promptreg_cli.parameters import REFERENCE

if TYPE_CHECKING:
    from promptreg.tuning.inspecting import VirtualToken

__all__ = ["COMMANDS", "inspect"]


@click.command()
@click.argument("reference", metavar="REF", type=REFERENCE)
@click.option(
    "--base",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The directory of the base model.",
)
@click.option("--nearest", metavar="K", type=click.IntRange(1, 100), default=5, show_default=True,
              help="How many near tokens to show for each virtual one.")  # fmt: skip
@click.option("--by", "measure", type=click.Choice(("cosine", "euclidean")), default="cosine",
              show_default=True, help="What makes two tokens near.")  # fmt: skip
@output.json_option
@pass_settings
def inspect(
    settings: Settings,
    reference: str,
    base: Path,
    nearest: int,
    measure: str,
    as_json_lines: bool,
) -> None:
    """Show which tokens of the vocabulary the virtual tokens of the prompt REF are near to.

    Each near token stands with its cosine and its Euclidean distance; PCT is how many of a hundred tokens of
    the vocabulary are shorter than the virtual one. Beware of reading too much into it: a prompt can be near to
    words that have nothing to do with its task, and do its task all the same (Khashabi et al. 2022).

    \b
    Example:
      promptreg inspect sst2@prod --base ./gemma-3-270m --nearest 3
    """
    with settings.registry() as registry:
        actual = at_hand.fingerprint(base)
        pulled = at_hand.pull_for(registry, reference, str(actual.fingerprint))
    from promptreg.tuning.inspecting import CAVEAT, inspect_prompt

    with output.progress("comparing with the vocabulary", count=True) as advance:
        found = inspect_prompt(
            pulled, base, nearest=nearest, measure=measure, at_hand=actual, progress=advance
        )
    if as_json_lines:
        for token in found.tokens:
            output.as_json(_fields(token))
    else:
        rows = [_row(token) for token in found.tokens]
        output.table(["TOKEN", "NORM", "PCT", "NEAREST (COSINE, DISTANCE)"], rows, spare=[])
        low, middle, high = found.norms
        click.echo(
            f"norms of the vocabulary's {found.vocabulary:,} tokens: {middle:.4g}, most from {low:.4g} to "
            f"{high:.4g}"
        )
        if found.far:
            click.echo(
                f"{found.far} of {len(found.tokens)} virtual tokens are no nearer to any token than chance has "
                f"it (a cosine of {found.by_chance:.2f})"
            )
    if pulled.version.yanked is not None:
        output.note(f"warning: {pulled.version.ref} was yanked: {pulled.version.yanked.reason}")
    for line in (*found.notes, CAVEAT):
        output.note(f"note: {line}")


def _row(token: "VirtualToken") -> list[str]:
    near = (f"{each.text} {each.cosine:.2f} {each.distance:.3g}" for each in token.nearest)
    return [str(token.index), f"{token.norm:.4g}", f"{token.percentile:.0f}", "  ".join(near)]


def _fields(token: "VirtualToken") -> dict[str, Any]:
    return {
        "token": token.index,
        "norm": token.norm,
        "percentile": token.percentile,
        "nearest": [
            {
                "id": each.id,
                "text": each.text,
                "cosine": each.cosine,
                "distance": each.distance,
            }
            for each in token.nearest
        ],
    }


COMMANDS = (inspect,)
