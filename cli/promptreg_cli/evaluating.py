"""``promptreg eval``: measure prompts on examples, and record what they scored."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from promptreg_cli import output
from promptreg_cli.attaching import (
    attached,
    device_option,
    dtype_option,
    policy_option,
    pull,
)
from promptreg_cli.main import Settings, pass_settings
from promptreg_cli.parameters import REFERENCE

if TYPE_CHECKING:
    from promptreg.tuning import Score

__all__ = ["COMMANDS", "evaluate"]


@click.command("eval")
@click.argument("references", metavar="REF...", type=REFERENCE, nargs=-1, required=True)
@click.option(
    "--base",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The directory of the base model.",
)
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='JSONL of {"text", "label"} or {"text", "target"}.',
)
@click.option("--prefix", default="", help="What to put before the metrics' names, such as test_.")
@click.option("--dry-run", is_flag=True, help="Measure, and record nothing.")
@click.option("--max-new-tokens", default=64, show_default=True, type=click.IntRange(1),
              help="How long a continuation gets at most.")  # fmt: skip
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(1),
              help="How many rows go through the base model at once.")  # fmt: skip
@device_option
@dtype_option
@policy_option
@output.json_option
@pass_settings
def evaluate(
    settings: Settings,
    references: tuple[str, ...],
    base: Path,
    data: Path,
    prefix: str,
    dry_run: bool,
    max_new_tokens: int,
    batch_size: int,
    device: str,
    dtype: str,
    policy: str,
    as_json_lines: bool,
) -> None:
    """Measure the prompts REF... on the examples of a file, and add the metrics to their versions.

    All prompts answer in mixed batches on the one base model. Labels are scored by accuracy and macro-F1,
    targets by exact match. Metrics are recorded with who and when; what was recorded before is kept.

    \b
    Example:
      promptreg eval spam@prod spam@7 --base ./gemma-3-270m --data test.jsonl --prefix test_
    """
    from promptreg.tuning import read_examples

    examples = read_examples(data)
    pulled = pull(settings, list(dict.fromkeys(references)), base)
    from promptreg.tuning import evaluate as measure

    with (
        attached(base, pulled, policy=policy, device=device, dtype=dtype) as prompted,
        output.progress("measuring", count=True) as advance,
    ):
        scores = measure(
            prompted,
            [*pulled],
            examples,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            progress=advance,
        )
    refs = {name: each.version.ref for name, each in pulled.items()}
    if not dry_run:
        with settings.registry() as registry:
            for name, ref in refs.items():
                values = {f"{prefix}{key}": score.value for key, score in scores[name].items()}
                registry.add_metrics(ref, values)
    if as_json_lines:
        for name, ref in refs.items():
            found = {f"{prefix}{key}": _fields(score) for key, score in scores[name].items()}
            output.as_json({"ref": ref, "data": str(examples.digest), "metrics": found})
        return
    rows = [
        [
            ref,
            f"{prefix}{key}",
            f"{score.value:.4f}",
            f"{score.low:.4f} to {score.high:.4f}",
            str(score.count),
        ]
        for name, ref in refs.items()
        for key, score in scores[name].items()
    ]
    output.table(["REF", "METRIC", "VALUE", "95 %", "EXAMPLES"], rows, spare=["EXAMPLES", "95 %"])


def _fields(score: "Score") -> dict[str, float]:
    return {"value": score.value, "low": score.low, "high": score.high, "count": score.count}


COMMANDS = (evaluate,)
