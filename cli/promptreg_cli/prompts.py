"""``promptreg list``, ``show``, ``alias`` and ``yank``: what is registered."""

from typing import TYPE_CHECKING

import click

from promptreg_cli import at_hand, output
from promptreg_cli.main import Settings, pass_settings
from promptreg_cli.parameters import BASE, REFERENCE, TASK

if TYPE_CHECKING:
    from datetime import datetime

    from promptreg.prompts import PromptVersion

__all__ = ["COMMANDS", "alias", "list_prompts", "show", "yank"]

# Metrics of every tuned prompt that are no scores.
_BOOKKEEPING = {"best_step", "dev_loss", "train_seconds", "trained_steps"}


@click.command("list")
@click.argument("task", required=False, type=TASK)
@click.option("--where", metavar="EXPR", help="A filter: hp.length = 20 and metric.accuracy > 0.9")
@click.option(
    "--sort", metavar="KEY", help="A column, hp.NAME or metric.NAME; -KEY: the largest first."
)
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many at most."
)
@click.option("--after", metavar="CURSOR", help="Go on where the page before ended.")
@click.option("--yanked", is_flag=True, help="Show yanked versions too.")
@output.json_option
@pass_settings
def list_prompts(
    settings: Settings,
    task: str | None,
    where: str | None,
    sort: str | None,
    limit: int,
    after: str | None,
    yanked: bool,
    as_json_lines: bool,
) -> None:
    """List registered prompts, the newest first.

    TASK may hold wildcards ('acme/*'). A filter compares columns (task, base, method, tokens, pushed_at, …),
    alias, hp.NAME and metric.NAME with = != < <= > >=, joined by and, or, not; * and ? are wildcards.

    \b
    Example:
      promptreg list --where 'metric.accuracy > 0.9 and (hp.lr <= 0.3 or alias = prod)' --sort -metric.accuracy
    """
    with settings.registry() as registry:
        page = registry.list(task, where=where, sort=sort, limit=limit, after=after, yanked=yanked)
    if as_json_lines:
        for version in page.versions:
            output.as_json(output.version_fields(version))
    elif page.versions:
        headers = ("REF", "BASE", "METHOD", "TOKENS", "ALIASES", "METRICS", "PUSHED")
        spare = ("METHOD", "TOKENS", "PUSHED", "BASE", "METRICS")
        output.table(headers, [_row(version) for version in page.versions], spare=spare)
    else:
        output.note("no prompt matches" if task or where else "no prompt is registered yet")
    if page.next is not None:
        output.note(f"there are more: --after {page.next}")


@click.command()
@click.argument("reference", metavar="REF", type=REFERENCE)
@click.option("--base", type=BASE, help="The base model, where REF is an alias on several.")
@click.option(
    "--metrics",
    "history",
    is_flag=True,
    help="Show every value that its metrics ever had: by whom, and when.",
)
@output.json_option
@pass_settings
def show(
    settings: Settings, reference: str, base: str | None, history: bool, as_json_lines: bool
) -> None:
    """Show all that is registered about the prompt REF.

    \b
    Example:
      promptreg show sst2@prod
    """
    if history:
        _show_history(settings, reference, base, as_json_lines=as_json_lines)
        return
    with settings.registry() as registry:
        version = registry.show(reference, base=at_hand.registered(base))
        manifest = registry.manifest(version)
    use = {key: manifest[key] for key in ("template", "labels")}
    ensemble = manifest.get("ensemble", {"members": [], "vote": None})
    use |= {key: ensemble[key] for key in ("members", "vote")}
    if as_json_lines:
        output.as_json(output.version_fields(version) | use)
        return
    facts = [
        *_facts(version),
        ("template", use["template"] or ""),
        ("labels", ", ".join(use["labels"])),
        ("members", ", ".join(use["members"])),
        ("vote", use["vote"] or ""),
    ]
    rows = [(name, " ".join(text.split())) for name, text in facts if text]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        shown = output.printable(text)
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {shown}")


@click.command()
@click.argument("reference", metavar="REF", type=REFERENCE)
@click.argument("name")
@click.option("--base", type=BASE, help="The base model, where REF is an alias on several.")
@output.json_option
@pass_settings
def alias(
    settings: Settings, reference: str, name: str, base: str | None, as_json_lines: bool
) -> None:
    """Let the alias NAME stand for the prompt REF, on its base model.

    \b
    Example:
      promptreg alias sst2@3 prod
    """
    with settings.registry() as registry:
        version, before = registry.set_alias(reference, name, base=at_hand.registered(base))
    if as_json_lines:
        output.as_json(
            {
                "alias": f"{version.task}@{name}",
                "ref": version.ref,
                "base": str(version.base),
                "before": None if before is None else before.ref,
            }
        )
    else:
        moved = "" if before is None else f" (was {before.ref})"
        click.echo(f"{version.task}@{name} is {version.ref}{moved}")


@click.command()
@click.argument("reference", metavar="REF", type=REFERENCE)
@click.option("--reason", required=True, help="Why nobody should use it.")
@click.option("--base", type=BASE, help="The base model, where REF is an alias on several.")
@output.json_option
@pass_settings
def yank(
    settings: Settings, reference: str, reason: str, base: str | None, as_json_lines: bool
) -> None:
    """Withdraw the prompt REF: only its number still leads to it, with a warning.

    \b
    Example:
      promptreg yank sst2@3 --reason 'trained on the test set'
    """
    with settings.registry() as registry:
        version = registry.yank(reference, reason=reason, base=at_hand.registered(base))
    if as_json_lines:
        output.as_json(output.version_fields(version))
    else:
        click.echo(f"yanked {version.ref}: {version.yanked.reason if version.yanked else reason}")


def _show_history(
    settings: Settings, reference: str, base: str | None, *, as_json_lines: bool
) -> None:
    with settings.registry() as registry:
        found = registry.measurements(reference, base=at_hand.registered(base))
    if as_json_lines:
        for each in found:
            superseded = each.superseded_at
            output.as_json(
                {
                    "metric": each.metric,
                    "value": each.value,
                    "recorded_by": each.by,
                    "recorded_at": each.at.isoformat(),
                    "superseded_at": None if superseded is None else superseded.isoformat(),
                }
            )
    elif found:
        headers = ("METRIC", "RECORDED", "SUPERSEDED", "BY", "VALUE")
        rows = [
            (
                each.metric,
                _moment(each.at),
                "" if each.superseded_at is None else _moment(each.superseded_at),
                each.by,
                f"{each.value:.6g}" if isinstance(each.value, float) else str(each.value),
            )
            for each in found
        ]
        output.table(headers, rows, spare=("SUPERSEDED", "RECORDED"))
    else:
        output.note(f"no metric of {reference} was ever recorded")


def _moment(when: "datetime") -> str:
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}"


def _row(version: "PromptVersion") -> tuple[str, ...]:
    # A score says what a reader of a list wants to know; the ends of its interval and curves are for 'show'.
    ends = {f"{name}_{end}" for name in version.metrics for end in ("low", "high")} | _BOOKKEEPING
    metrics = ", ".join(
        f"{name}={output.number(value)}"
        for name, value in sorted(version.metrics.items())
        if name not in ends and not isinstance(value, str)
    )
    return (
        f"{version.ref} (yanked)" if version.yanked else version.ref,
        version.base_name or version.base.short,
        version.method.value,
        str(version.num_virtual_tokens),
        ", ".join(version.aliases),
        metrics,
        output.when(version),
    )


def _facts(version: "PromptVersion") -> list[tuple[str, str]]:
    base = f"{version.base_name}  {version.base}" if version.base_name else str(version.base)
    facts = [
        ("ref", version.ref),
        ("aliases", ", ".join(version.aliases)),
        ("yanked", "" if version.yanked is None else version.yanked.reason),
        ("base", base),
        ("method", f"{version.method.value}, {version.task_type.value}, {version.placement.value}"),
        ("tokens", f"{version.num_virtual_tokens} x {version.token_dim}"),
        ("init", version.init or ""),
        ("digest", f"{version.digest}  {version.size:,} bytes"),
        ("canary", "recorded" if version.canary else "none"),
        ("parent", version.parent or ""),
        ("note", version.note or ""),
        ("pushed", f"{output.when(version)} by {version.pushed_by}"),
    ]
    facts += [(f"metric.{k}", output.number(v)) for k, v in sorted(version.metrics.items())]
    facts += [(f"hp.{k}", output.number(v)) for k, v in sorted(version.hyperparameters.items())]
    return facts


COMMANDS = (list_prompts, show, alias, yank)
