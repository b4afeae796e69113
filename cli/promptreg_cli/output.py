"""What people and programs see: tables that fit the terminal, one JSON object a line, progress."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from promptreg.prompts import PromptVersion, Scalar
    from promptreg.pushing import Pushed

__all__ = [
    "as_json",
    "is_terminal",
    "json_option",
    "note",
    "number",
    "printable",
    "progress",
    "pushed",
    "short",
    "table",
    "version_fields",
    "when",
    "working",
]

json_option = click.option("--json", "as_json_lines", is_flag=True, help="One JSON object a line.")

_GAP = 2  # spaces between columns
_PATIENCE = 0.5  # seconds of work before a progress bar appears


def as_json(fields: Mapping[str, Any]) -> None:
    """Print one JSON object on its own line."""
    click.echo(json.dumps(fields, ensure_ascii=False, default=str))


def note(text: str) -> None:
    """Tell the person something that is not the result."""
    click.echo(printable(text), err=True)


def printable(text: str) -> str:
    """Return ``text`` with what a terminal would obey, not show, written out: it may be somebody else's."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )


def short(text: str, most: int = 24) -> str:
    """Return ``text`` for a table's cell that others stand beside: at most ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, spare: Sequence[str]) -> None:
    """Print a table that fits the terminal.

    The first column is never cut, for it names the row. Where the terminal is too narrow, the columns of
    ``spare`` go, the first one first; then the last column is cut.
    """
    grid = [list(headers), *([_printable(text) for text in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    columns = list(range(len(headers)))
    edge = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None
    for name in spare:
        if edge is None or sum(widths[at] + _GAP for at in columns) - _GAP <= edge:
            break
        columns.remove(headers.index(name))
    for number, row in enumerate(grid):
        cells = [row[at].ljust(widths[at]) for at in columns]
        line = (" " * _GAP).join(cells).rstrip()
        first = len(cells[0])
        if edge is not None and len(line) > max(edge, first):
            line = line[: max(edge, first) - 1] + "…"
        click.echo(line if number else click.style(line, bold=True))


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a person looks at ``stream``; a closed one is None."""
    return stream is not None and stream.isatty()


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


@contextmanager
def progress(description: str, *, count: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to call with (done, in all); a bar appears if it takes a while.

    Args:
        description: What is being done.
        count: That things are counted, not bytes.
    """
    if not is_terminal(sys.stderr):
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn(description),
        BarColumn(),
        MofNCompleteColumn() if count else DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    job = bar.add_task(description, total=None)
    began = time.monotonic()

    def advance(done: int, total: int) -> None:
        if not bar.live.is_started and time.monotonic() - began > _PATIENCE:
            bar.start()
        bar.update(job, completed=done, total=total)

    try:
        yield advance
    finally:
        bar.stop()


@contextmanager
def working(description: str) -> Iterator[None]:
    """Show that something takes its time, where nothing tells how long."""
    if not is_terminal(sys.stderr):
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(description):
        yield


def pushed(result: "Pushed", *, as_json_lines: bool) -> None:
    """Print what came of a push."""
    version = result.version
    for line in result.notes:
        note(line)
    if as_json_lines:
        keys = ("ref", "task", "version", "digest", "base")
        fields = version_fields(version)
        as_json({key: fields[key] for key in keys} | {"created": result.created})
    else:
        verb = "pushed" if result.created else "found"
        click.echo(
            f"{verb} {version.ref}  {version.digest}  on {version.base_name or version.base}"
        )


def version_fields(version: "PromptVersion") -> dict[str, Any]:
    """Return what a program wants to know about a version."""
    return {
        "ref": version.ref,
        "task": version.task,
        "version": version.version,
        "digest": str(version.digest),
        "base": str(version.base),
        "base_name": version.base_name,
        "method": version.method.value,
        "task_type": version.task_type.value,
        "placement": version.placement.value,
        "tokens": version.num_virtual_tokens,
        "token_dim": version.token_dim,
        "size": version.size,
        "init": version.init,
        "parent": version.parent,
        "note": version.note,
        "hyperparameters": dict(version.hyperparameters),
        "metrics": dict(version.metrics),
        "aliases": list(version.aliases),
        "pushed_by": version.pushed_by,
        "pushed_at": version.pushed_at.isoformat(),
        "canary": version.canary is not None,
        "yanked": None
        if version.yanked is None
        else {"when": version.yanked.when.isoformat(), "reason": version.yanked.reason},
    }


def number(value: "Scalar") -> str:
    """Return ``value`` as a person reads it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def when(version: "PromptVersion") -> str:
    """Return when a version was pushed, in the reader's own time zone."""
    return f"{version.pushed_at.astimezone():%Y-%m-%d %H:%M}"
