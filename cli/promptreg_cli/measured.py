"""What prompts scored on the base models at hand: as it is recorded, and as people and programs see it."""

import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from promptreg_cli import output
from promptreg_cli.choosing import Place

if TYPE_CHECKING:
    from promptreg.prompts import Scalar
    from promptreg.tuning import Evaluation, Score

__all__ = ["Measured", "note_cuts", "objects", "print_matrix", "print_scores"]

_GAP = 2  # spaces between columns
_LARGE = 1000.0  # a perplexity so large says nothing in its fourth decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A prompt, on the base model that it was measured on, and what it scored there.

    Attributes:
        place: The base model.
        ref: The prompt.
        found: What it scored.
        at_home: Whether the base model is the prompt's own, or was let pass for it by its outputs.
    """

    place: Place
    ref: str
    found: "Evaluation"
    at_home: bool

    def metrics(self, prefix: str) -> "dict[str, Scalar]":
        """Return what is recorded; a perplexity beyond all numbers is not."""
        from promptreg.tuning.tuned import as_metrics

        scores = {
            name: score
            for name, score in self.found.scores.items()
            if all(map(math.isfinite, (score.value, score.low, score.high)))
        }
        for name in self.found.scores.keys() - scores.keys():
            output.note(f"{self.ref}: {name} is no finite number and was not recorded")
        return as_metrics(scores, prefix=prefix)


def note_cuts(measured: Sequence[Measured], count: int) -> None:
    """Say how many texts were cut: once for all prompts that lost the same."""
    cuts: dict[tuple[int, int | None], list[str]] = {}
    for each in measured:
        if each.found.cut:
            cuts.setdefault((each.found.cut, each.found.max_length), []).append(each.ref)
    for (cut, longest), refs in cuts.items():
        output.note(
            f"{cut} of the {count} texts are longer than {longest} tokens and were cut for {', '.join(refs)}"
        )


def objects(
    measured: Sequence[Measured], cells: Sequence[Place], *, data: str, prefix: str
) -> list[dict[str, Any]]:
    """Return what a program wants to know: an object a prompt, or a cell if there are ``cells``."""
    return [
        {
            "ref": each.ref,
            "base": place.fingerprint,
            "base_name": place.name,
            "data": data,
            "metrics": {f"{prefix}{key}": _fields(s) for key, s in each.found.scores.items()}
            if place == each.place
            else None,
            "cut": each.found.cut if place == each.place else None,
        }
        for each in measured
        for place in cells or [each.place]
    ]


def _fields(score: "Score") -> dict[str, float | None]:
    ends = {"value": score.value, "low": score.low, "high": score.high}
    # JSON has no infinity.
    finite = {key: value if math.isfinite(value) else None for key, value in ends.items()}
    return {**finite, "count": score.count}


def print_scores(measured: Sequence[Measured], *, prefix: str, with_base: bool) -> None:
    """Print all scores of each prompt, a row each."""
    rows = [
        [
            each.ref,
            f"{prefix}{key}",
            _number(score.value),
            f"{_number(score.low)} to {_number(score.high)}",
            str(score.count),
            *([each.place.name] if with_base else []),
        ]
        for each in measured
        for key, score in each.found.scores.items()
    ]
    headers = ["REF", "METRIC", "VALUE", "95 %", "EXAMPLES", *(["BASE"] if with_base else [])]
    output.table(headers, rows, spare=["EXAMPLES", *headers[5:], "95 %"])


def print_matrix(
    measured: Sequence[Measured], at: Sequence[Place], metric: str, *, prefix: str
) -> None:
    """Print one score of each prompt on each base model; ``-`` where it is not at home.

    Where the base models' names are too wide for the terminal, numbers stand for them.
    """
    corner = f"{prefix}{metric}"
    rows = [
        [each.ref, *(_cell(each, metric) if place == each.place else "-" for place in at)]
        for each in measured
    ]
    names = [place.name for place in at]
    width = max(map(len, [corner, *(row[0] for row in rows)]))
    width += sum(max(len(name), len("0.0000")) + _GAP for name in names)
    if output.is_terminal(sys.stdout) and width > shutil.get_terminal_size().columns:
        names = [f"[{number}]" for number in range(1, len(at) + 1)]
    output.table([corner, *names], rows, spare=[])
    for name, place in zip(names, at, strict=True):
        if name != place.name:
            click.echo(f"{name} {place.name}")


def _cell(each: Measured, metric: str) -> str:
    score = each.found.scores.get(metric)
    return "none" if score is None else _number(score.value)


def _number(value: float) -> str:
    return f"{value:.4f}" if value < _LARGE else f"{value:.4g}"
