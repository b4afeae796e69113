"""``promptreg tune`` and ``promptreg sweep``: from examples to registered prompts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from promptreg_cli import output
from promptreg_cli.attaching import device_option, dtype_option
from promptreg_cli.main import Settings, pass_settings
from promptreg_cli.parameters import TASK
from promptreg_cli.training import Session

if TYPE_CHECKING:
    from promptreg.tuning import Score, Tuned
    from promptreg_cli.training import Compared

__all__ = ["COMMANDS", "sweep", "tune"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

# What both commands take; the order is that of their help.
_COMMON = (
    click.option(
        "--base",
        required=True,
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="The directory of the base model.",
    ),
    click.option("--task", required=True, type=TASK, help="What the prompt is for: sst2."),
    click.option(
        "--train",
        required=True,
        type=_FILE,
        help='What to learn from: JSONL of {"text", "label"} or {"text", "target"}.',
    ),
    click.option("--dev", required=True, type=_FILE, help="What to choose the best step by."),
    click.option("--test", type=_FILE, help="What to measure the finished prompt on."),
    click.option(
        "--template",
        help="The text around each text, with {text} where it goes; '{text}' for none. A decoder gets "
        "'{text}\\nAnswer:' unless told.",
    ),
    click.option(
        "--label", "labels", multiple=True, help="A label word, if not those in --train. Repeatable."
    ),
    click.option(
        "--length",
        type=click.IntRange(1),
        help="How many virtual tokens.  [default: 20, or the length of the prompt to start from]",
    ),
    click.option(
        "--init",
        default="auto",
        show_default=True,
        help='Where to start: random, vocab, labels, text:"…", prompt:REF, or best, the closest registered '
        "prompt. auto: labels if there are any, else vocab.",
    ),
    click.option("--placement", default="prefix", show_default=True,
                 type=click.Choice(("prefix", "after-bos")), help="Where the virtual tokens stand."),
    click.option("--optimizer", default="adamw", show_default=True,
                 type=click.Choice(("adamw", "adafactor")), help="What makes the steps."),
    click.option(
        "--lr",
        type=click.FloatRange(0, min_open=True),
        help="The largest learning rate; AdamW's is relative to the size of the base's embeddings.  "
        "[default: the optimizer's]",
    ),
    click.option("--head-lr", default=0.01, show_default=True,
                 type=click.FloatRange(0, min_open=True),
                 help="That of a new classifier's head, on an encoder."),
    click.option("--schedule", type=click.Choice(("constant", "linear", "cosine")),
                 help="How the learning rate falls.  [default: the optimizer's]"),
    click.option("--warmup", default=0.05, show_default=True, type=click.FloatRange(0, 1),
                 help="The share of the steps in which the learning rate rises."),
    click.option("--weight-decay", type=click.FloatRange(0, 1), help="[default: the optimizer's]"),
    click.option("--batch-size", default=16, show_default=True, type=click.IntRange(1),
                 help="Examples a step."),
    click.option("--steps", default=400, show_default=True, type=click.IntRange(1),
                 help="How many steps at most."),
    click.option("--eval-every", type=click.IntRange(1),
                 help="Steps between two looks at --dev.  [default: a tenth of --steps]"),
    click.option("--patience", default=5, show_default=True, type=click.IntRange(0),
                 help="Stop after that many looks without a better score; 0: never."),
    click.option("--clip", default=1.0, show_default=True,
                 type=click.FloatRange(0, min_open=True), help="The largest norm of a gradient."),
    click.option("--snapshot-step", default=50, show_default=True, type=click.IntRange(1),
                 help="After which step the prompt is kept as the task's embedding."),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1),
                 help="Of the start and of the examples' order."),
    click.option("--max-length", default=512, show_default=True, type=click.IntRange(1),
                 help="How many tokens a text has at most; longer ones are cut."),
    click.option("--precision", default="auto", show_default=True,
                 type=click.Choice(("auto", "full", "mixed")),
                 help="mixed: bfloat16 arithmetic on a float32 base; auto: mixed on a GPU."),
    click.option("--recompute", is_flag=True,
                 help="Compute activations anew in the backward pass: less memory, more time."),
    device_option,
    dtype_option,
    click.option("--checkpoints", type=click.Path(file_okay=False, path_type=Path),
                 help="Where runs keep what they need to go on.  [default: the data directory]"),
    click.option("--fresh", is_flag=True, help="Forget an earlier run's checkpoint."),
    click.option("--canary/--no-canary", default=True,
                 help="Record what prompt and base give on a few inputs."),
    click.option("--note", help="Free text."),
    output.json_option,
)  # fmt: skip


def _common(command: _Command) -> _Command:
    for option in reversed(_COMMON):
        command = option(command)
    return command


@click.command()
@_common
@click.option("--alias", "-a", "aliases", multiple=True, help="A name to set on it. Repeatable.")
@click.option(
    "--method",
    default="prompt-tuning",
    show_default=True,
    type=click.Choice(("prompt-tuning", "prompt-design", "model-tuning")),
    help="The two others are what prompt tuning is compared with: their scores are recorded, and no prompt.",
)
@click.option("--shots", type=click.IntRange(0),
              help="With prompt-design: how many examples to write out first.  [default: 0]")  # fmt: skip
@pass_settings
def tune(
    settings: Settings,
    /,
    aliases: tuple[str, ...],
    method: str,
    shots: int | None,
    **options: Any,
) -> None:
    """Train a soft prompt for a task on a frozen base model, and register it.

    Ctrl-C writes down where the run stands; the same command goes on from there. So it does after a crash.

    \b
    Example:
      promptreg tune --base ./gemma-3-270m --task bbc/topic --train train.jsonl --dev dev.jsonl
    """
    from promptreg.names import check_alias

    for alias in aliases:
        check_alias(alias)
    if shots is not None and method != "prompt-design":
        raise click.UsageError("--shots is for --method prompt-design")
    for option in ("alias", "length", "init") if method != "prompt-tuning" else ():
        given = aliases if option == "alias" else options[option] not in (None, "auto")
        if given:
            raise click.UsageError(f"--{option} is for a prompt, and {method} makes none")
    with settings.registry() as registry:
        session = Session(registry, options, whole_model=method == "model-tuning")
        if method != "prompt-tuning":
            _print_result(session.compare(method, shots or 0), options["as_json_lines"])
            return
        recipe = session.recipe()
        if options["init"] == "best":
            recipe = session.from_best(recipe)
        (tuned,) = session.train([recipe])
        pushed = session.push(tuned, aliases=aliases)
        session.forget()
    if options["as_json_lines"]:
        output.as_json(_fields(tuned, pushed.version.ref))
        return
    _print_scores(tuned.scores)
    output.pushed(pushed, as_json_lines=False)


@click.command()
@_common
@click.option(
    "--grid",
    "axes",
    multiple=True,
    required=True,
    metavar="AXIS=VALUE,…",
    help="An axis of the grid: length, init, lr, optimizer, schedule, batch, steps, seed, warmup, "
    "weight_decay or placement. Repeatable.",
)
@click.option("--stop-hopeless/--no-stop-hopeless", default=True, show_default=True,
              help="Stop runs that are clearly behind the others.")  # fmt: skip
@click.option("--at-once", default=16, show_default=True, type=click.IntRange(1),
              help="How many runs train together.")  # fmt: skip
@pass_settings
def sweep(
    settings: Settings, /, axes: tuple[str, ...], stop_hopeless: bool, at_once: int, **options: Any
) -> None:
    """Train a grid of soft prompts together on one frozen base model, and register every run that finishes.

    \b
    Example:
      promptreg sweep --base ./gemma-3-270m --task bbc/topic --train train.jsonl --dev dev.jsonl \\
        --grid length=1,5,20,100 --grid seed=0,1,2
    """
    from promptreg.tuning import expand, read_grid

    if options["init"] == "best":
        raise click.UsageError("a sweep starts its runs apart; --init best is for tune")
    grid = [read_grid(axis) for axis in axes]
    with settings.registry() as registry:
        session = Session(
            registry, options, axes=[name for name, _ in grid], stop_hopeless=stop_hopeless
        )
        recipes = expand(session.recipe(), grid)
        done: list[tuple[Tuned, str | None]] = []
        for start in range(0, len(recipes), at_once):
            group = recipes[start : start + at_once]
            if len(recipes) > at_once:
                output.note(f"runs {start + 1} to {start + len(group)} of {len(recipes)}")
            found = session.train(group)
            done += [(tuned, session.push_if_learned(tuned)) for tuned in found]
        # Not before all groups are done: a sweep that is stopped need not train the first ones again.
        session.forget()
    if options["as_json_lines"]:
        for tuned, ref in done:
            output.as_json(_fields(tuned, ref))
        return
    _print_sweep(done, [name for name, _ in grid])


def _fields(tuned: "Tuned", ref: str | None) -> dict[str, Any]:
    """Return what a program wants to know about a run."""
    return {
        "ref": ref,
        "run": tuned.name,
        "outcome": tuned.outcome.value,
        "tokens": tuned.recipe.num_virtual_tokens,
        "init": tuned.recipe.init,
        "hyperparameters": dict(tuned.hyperparameters),
        "metrics": tuned.metrics,
    }


def _print_result(result: "Compared", as_json_lines: bool) -> None:
    """Print what a method without a prompt scored."""
    found = result.result
    if as_json_lines:
        output.as_json(
            {
                "task": found.task,
                "method": found.method,
                "base": str(found.base),
                "hyperparameters": dict(found.hyperparameters),
                "metrics": dict(found.metrics),
            }
        )
        return
    _print_scores(result.scores)
    click.echo(
        f"recorded what {found.method} scores on {found.task}, on {found.base_name or found.base}"
    )


def _print_scores(by_set: "Mapping[str, Mapping[str, Score]]") -> None:
    rows = [
        [
            f"{name}_{key}",
            f"{score.value:.4f}",
            f"{score.low:.4f} to {score.high:.4f}",
            str(score.count),
        ]
        for name, scores in by_set.items()
        for key, score in scores.items()
    ]
    output.table(["METRIC", "VALUE", "95 %", "EXAMPLES"], rows, spare=["EXAMPLES"])


def _print_sweep(done: "Sequence[tuple[Tuned, str | None]]", axes: Sequence[str]) -> None:
    """Print all runs, the best first."""
    if len({tuned.recipe.num_virtual_tokens for tuned, _ in done}) > 1:
        axes = list(dict.fromkeys(["num_virtual_tokens", *axes]))
    ranked = sorted(done, key=lambda run: _rank(run[0]), reverse=True)
    tested = any("test" in tuned.scores for tuned, _ in done)
    rows = []
    for tuned, ref in ranked:
        best = tuned.best
        row = [
            ref or "-",
            *(output.short(output.number(getattr(tuned.recipe, axis))) for axis in axes),
        ]
        row.append("-" if best is None else f"{best.score:.4f}")
        if tested:
            row.append(_test_score(tuned))
        rows.append(
            [*row, "-" if best is None else str(best.step), f"{tuned.seconds:.0f} s", tuned.outcome]
        )
    heads = [_HEADS.get(axis, axis.upper()) for axis in axes]
    output.table(
        ["REF", *heads, "DEV", *(["TEST"] if tested else []), "BEST STEP", "TIME", "OUTCOME"],
        rows,
        spare=["TIME", "BEST STEP"],
    )


_HEADS = {"num_virtual_tokens": "LENGTH", "learning_rate": "LR", "batch_size": "BATCH"}


def _rank(tuned: "Tuned") -> tuple[float, float]:
    return (-1.0, 0.0) if tuned.best is None else tuned.best.rank


def _test_score(tuned: "Tuned") -> str:
    scores = tuned.scores.get("test")
    return "-" if not scores else f"{next(iter(scores.values())).value:.4f}"


COMMANDS = (sweep, tune)
