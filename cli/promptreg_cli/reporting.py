"""``promptreg report``: a page of plots from what is registered."""

import secrets
from datetime import UTC, datetime
from pathlib import Path

import click

from promptreg.errors import DestinationError
from promptreg_cli import output
from promptreg_cli.main import Settings, pass_settings
from promptreg_cli.parameters import TASK

__all__ = ["COMMANDS", "report"]

_MARK = b'<meta name="generator" content="promptreg report">'
_MARK_WITHIN = 1024


@click.command()
@click.argument("tasks", metavar="TASK...", type=TASK, nargs=-1, required=True)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The page to write; a report that is there is replaced.",
)
@click.option("--metric", metavar="NAME", help="What to compare by, such as test_macro_f1.")
@click.option("--title", default="Prompt tuning", show_default=True, help="What stands on top.")
@output.json_option
@pass_settings
def report(
    settings: Settings,
    tasks: tuple[str, ...],
    out: Path,
    metric: str | None,
    title: str,
    as_json_lines: bool,
) -> None:
    """Draw all that is registered about the tasks TASK... as one HTML page.

    TASK may hold wildcards ('acme/*'). The page needs neither network nor script. It compares prompt lengths,
    initialisations, learning curves, base models, methods and seeds, as far as the runs differ in them, and
    names the command that fills what is missing.

    \b
    Example:
      promptreg report sst2 'acme/*' --out report.html
    """
    from promptreg.tuning import report as make

    _check_destination(out)
    with settings.registry() as registry:
        made = make(
            registry,
            tasks,
            when=datetime.now(UTC).replace(second=0, microsecond=0),
            metric=metric,
            title=title,
        )
    _replace(out, made.html.encode())
    if as_json_lines:
        output.as_json({"path": str(out), "tasks": list(made.tasks), "runs": made.runs})
        return
    number = len(made.tasks)
    click.echo(f"wrote {out}: {_count(made.runs, 'run')} of {_count(number, 'task')}")


def _check_destination(out: Path) -> None:
    """Return if a report may be written at ``out``: nothing is there, or an older report."""
    try:
        with out.open("rb") as file:
            if _MARK in file.read(_MARK_WITHIN):
                return
    except FileNotFoundError:
        if out.parent.is_dir():
            return
        remedy = f"make the directory {out.parent} first"
        raise DestinationError(str(out), f"{out.parent} is not there", remedy) from None
    except OSError as error:
        raise _translated(out, error) from error
    raise DestinationError(str(out), "a file that is no report is there", "name another file")


def _replace(out: Path, data: bytes) -> None:
    """Write ``data`` in the place of ``out``, whole or not at all."""
    part = out.parent / f".promptreg-{secrets.token_hex(8)}.part"
    try:
        try:
            part.write_bytes(data)
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise _translated(out, error) from error


def _translated(out: Path, error: OSError) -> DestinationError:
    reason = error.strerror or str(error)
    return DestinationError(str(out), reason, "name a file that you can write")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


COMMANDS = (report,)
