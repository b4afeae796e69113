"""``promptreg eval``: measure prompts on examples, and record what they scored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from promptreg_cli import output
from promptreg_cli.attaching import attached, device_option, dtype_option, policy_option
from promptreg_cli.choosing import Place, has_wildcards, places, versions
from promptreg_cli.main import Settings, pass_settings
from promptreg_cli.measured import Measured, note_cuts, objects, print_matrix, print_scores
from promptreg_cli.parameters import REFERENCE

if TYPE_CHECKING:
    from promptreg.prompts import PromptVersion, PulledPrompt
    from promptreg.registry import Registry
    from promptreg.tuning import Examples

__all__ = ["COMMANDS", "evaluate"]

_METRICS = {True: ("accuracy", "macro_f1"), False: ("exact_match", "perplexity")}


@click.command("eval")
@click.argument("references", metavar="REF...", type=REFERENCE, nargs=-1, required=True)
@click.option(
    "--base",
    "bases",
    required=True,
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The directory of the base model. Repeat it for several: each prompt is measured on its own.",
)
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='JSONL of {"text", "label"} or {"text", "target"}.',
)
@click.option("--prefix", default="", help="What to put before the metrics' names, such as test_.")
@click.option("--dry-run", is_flag=True, help="Measure, and record nothing.")
@click.option("--matrix", is_flag=True,
              help="Show one score as a table of prompts and base models.")  # fmt: skip
@click.option(
    "--metric",
    type=click.Choice([name for each in _METRICS.values() for name in each]),
    help="Which one --matrix shows.  [default: accuracy, or exact_match]",
)
@click.option(
    "--max-length",
    type=click.IntRange(1),
    help="How many tokens a text has at most; longer ones are cut.  [default: as each prompt was trained]",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    help="How long a continuation gets at most.  [default: the longest target]",
)
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(1),
              help="How many rows go through the base model at once.")  # fmt: skip
@device_option
@dtype_option
@policy_option
@output.json_option
@pass_settings
def evaluate(
    settings: Settings,
    /,
    references: tuple[str, ...],
    bases: tuple[Path, ...],
    data: Path,
    prefix: str,
    dry_run: bool,
    matrix: bool,
    metric: str | None,
    as_json_lines: bool,
    **options: Any,
) -> None:
    """Measure the prompts REF... on the examples of a file, and add the metrics to their versions.

    All prompts answer in mixed batches on the one base model. Labels are scored by accuracy and macro-F1,
    targets by exact match and perplexity; each score is recorded with both ends of its 95 % interval, with who
    and when, and what was recorded before is kept. Either all prompts get their metrics, or none does.

    A task alone is its newest version. REF may hold wildcards: 'bbc/*' is every version, but those that were
    yanked, of every task that matches, and 'bbc/topic@*' is every version of one. With several --base, a task
    or an alias stands for its version on each of them.

    \b
    Example:
      promptreg eval spam@prod spam@7 --base ./gemma-3-270m --data test.jsonl --prefix test_
      promptreg eval --matrix 'bbc/*' --base ./gemma-3-270m --base ./gemma-3-1b --data test.jsonl
    """
    from promptreg.tuning import read_examples

    examples = read_examples(data)
    metric = _shown_metric(examples, metric, matrix=matrix)
    _check_prefix(prefix)
    with settings.registry() as registry:
        at = places(registry, bases)
        chosen = _choose(registry, references, at, matrix=matrix)
        pulled = {place.path: _pull(registry, own, examples) for place, own in chosen}
    measured = [
        each
        for place, _ in chosen
        for each in _measure(place, pulled.pop(place.path), examples, options)
    ]
    note_cuts(measured, len(examples))
    if not dry_run:
        _record(settings, measured, prefix)
    if as_json_lines:
        cells = at if matrix else []
        for fields in objects(measured, cells, data=str(examples.digest), prefix=prefix):
            output.as_json(fields)
    elif matrix:
        print_matrix(measured, at, metric, prefix=prefix)
    else:
        print_scores(measured, prefix=prefix, with_base=len(at) > 1)


def _shown_metric(examples: "Examples", metric: str | None, *, matrix: bool) -> str:
    known = _METRICS[examples.labelled]
    if metric is not None and not matrix:
        raise click.UsageError(
            "--metric chooses what --matrix shows; all metrics are shown without"
        )
    if metric is not None and metric not in known:
        kind = "labels" if examples.labelled else "targets"
        raise click.UsageError(f"{examples.path} has {kind}: --metric is {' or '.join(known)}")
    return metric or known[0]


def _check_prefix(prefix: str) -> None:
    """Return if metrics can be recorded under names that begin so: better now than after measuring."""
    from promptreg.database.scalars import check_scalars

    check_scalars(
        "metric", {f"{prefix}{name}_high": 0.0 for each in _METRICS.values() for name in each}
    )


def _choose(
    registry: "Registry", references: Sequence[str], at: Sequence[Place], *, matrix: bool
) -> "list[tuple[Place, list[PromptVersion]]]":
    """Return which versions are measured on which of the base models at hand."""
    known = {place.fingerprint: place for place in at}
    chosen: dict[str, dict[str, PromptVersion]] = {place.fingerprint: {} for place in at}
    elsewhere: dict[str, PromptVersion] = {}
    for reference in references:
        for version in versions(registry, reference, at):
            own = str(version.base)
            if own not in known and len(at) == 1 and not matrix and not has_wildcards(reference):
                # On the one that was named: attaching compares the two, and tells what differs.
                own = at[0].fingerprint
            chosen.get(own, elsewhere)[version.ref] = version
    if elsewhere:
        listed = ", ".join(
            f"{ref} (for {version.base_name or version.base.short})"
            for ref, version in elsewhere.items()
        )
        output.note(f"not measured, because their base model is none of these: {listed}")
    if not any(chosen.values()):
        raise click.ClickException("there is no prompt to measure; name its base model with --base")
    return [
        (place, [*chosen[place.fingerprint].values()]) for place in at if chosen[place.fingerprint]
    ]


def _pull(
    registry: "Registry", chosen: "Sequence[PromptVersion]", examples: "Examples"
) -> "dict[str, PulledPrompt]":
    """Pull prompts, after checking that they can be measured on the examples: before anything is run."""
    from promptreg.tuning.trials import check_answers

    pulled = {version.ref: registry.pull(version.ref) for version in chosen}
    for ref, each in pulled.items():
        check_answers(examples, each.prompt.labels, ref)
    return pulled


def _measure(
    place: Place,
    pulled: "dict[str, PulledPrompt]",
    examples: "Examples",
    options: Mapping[str, Any],
) -> list[Measured]:
    """Measure all prompts of one base model in one pass."""
    from promptreg.fingerprints import Verdict
    from promptreg.tuning import evaluate as measure

    where = {name: options[name] for name in ("policy", "device", "dtype")}
    limits = {name: options[name] for name in ("max_length", "max_new_tokens", "batch_size")}
    with (
        attached(place.path, pulled, **where) as prompted,
        output.progress(f"measuring on {place.name}", count=True) as advance,
    ):
        found = measure(prompted, [*pulled], examples, **limits, progress=advance)
        return [
            Measured(
                place=place,
                ref=ref,
                found=found[ref],
                at_home=options["policy"] == "canary"
                or prompted.prompts[ref].report.verdict is Verdict.EXACT,
            )
            for ref in pulled
        ]


def _record(settings: Settings, measured: Sequence[Measured], prefix: str) -> None:
    """Record what prompts scored on their own base models."""
    for each in measured:
        if not each.at_home:
            output.note(
                f"{each.ref} is not at home on {each.place.name}: nothing was recorded for it"
            )
    scores = {each.ref: each.metrics(prefix) for each in measured if each.at_home}
    with settings.registry() as registry:
        registry.add_all_metrics(scores)


COMMANDS = (evaluate,)
