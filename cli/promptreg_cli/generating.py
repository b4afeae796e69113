"""``promptreg generate``: answer texts with one or many prompts on one base model."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

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
    from promptreg.answers import Answer
    from promptreg.models import PromptedModel

__all__ = ["COMMANDS", "generate"]

_OURS = ("answer", "scores", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One text to answer.

    Attributes:
        number: Which line of the file it is, from 1.
        text: The text.
        prompt: The prompt that it names; None for the bare base model.
        more: What else its JSON object holds, which goes into the answer's.
    """

    number: int
    text: str
    prompt: str | None
    more: dict[str, Any]


@click.command()
@click.argument("file", required=False, type=click.File("r", encoding="utf-8"), default="-")
@click.option(
    "--base",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The directory of the base model.",
)
@click.option(
    "--prompt", "references", metavar="REF", type=REFERENCE, multiple=True,
    help="A prompt to attach; repeat it for several. The first is for lines that name none.",
)  # fmt: skip
@click.option("--output", "-o", "destination", type=click.File("w", encoding="utf-8"), default="-",
              help="Where to write; the terminal without it.")  # fmt: skip
@click.option("--max-new-tokens", default=64, show_default=True, type=click.IntRange(1),
              help="How long a continuation gets at most.")  # fmt: skip
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(1),
              help="How many rows go through the base model at once.")  # fmt: skip
@click.option("--temperature", type=click.FloatRange(0.01, 100),
              help="Draw each token, this freely; the likeliest one without it.")  # fmt: skip
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True),
              help="Draw from the likeliest tokens that make up this share.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="What drawing starts from.")
@device_option
@dtype_option
@policy_option
@pass_settings
def generate(
    settings: Settings,
    file: TextIO,
    base: Path,
    references: tuple[str, ...],
    destination: TextIO,
    max_new_tokens: int,
    batch_size: int,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    device: str,
    dtype: str,
    policy: str,
) -> None:
    """Answer the lines of FILE, or of what is typed, with the prompts REF on one frozen base model.

    A line is a text, or a JSON object with "text" and, if it likes, "prompt": so one file may mix tasks, and
    null there means the bare base model. Each prompt's template is put around its texts; one with label words
    answers with a label and says how likely each was. Writes a JSON object a line, in the order of the lines;
    one that cannot be answered gets an "error", and the command exits 1 at its end.

    \b
    Example:
      promptreg generate --base ./gemma-3-270m --prompt spam@prod --prompt topic@3 texts.jsonl
    """
    names = list(dict.fromkeys(references))
    lines = list(_read(file, names[0] if names else None, names))
    if not lines:
        raise click.ClickException(f"{file.name} has no texts: write one a line")
    sampling = _sampling(temperature, top_p, seed)
    pulled = pull(settings, names, base)
    failed = 0
    with (
        attached(base, pulled, policy=policy, device=device, dtype=dtype) as prompted,
        output.progress("answering", count=True) as advance,
    ):
        for start in range(0, len(lines), batch_size):
            batch = lines[start : start + batch_size]
            how = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, **sampling}
            for line, found in zip(batch, _answer(prompted, batch, how), strict=True):
                failed += isinstance(found, str)
                click.echo(json.dumps(_fields(line, found), ensure_ascii=False), destination)
            advance(start + len(batch), len(lines))
    if failed:
        raise click.ClickException(
            f"{failed} of {len(lines)} lines could not be answered: see their errors"
        )


def _read(file: Iterable[str], default: str | None, known: Sequence[str]) -> Iterator[_Line]:
    """Yield the texts of a file of lines or JSON objects; blank lines are left out."""
    lines = enumerate(file, start=1)
    while True:
        try:
            number, raw = next(lines)
        except StopIteration:
            return
        except UnicodeDecodeError as error:
            raise click.ClickException(f"the texts are not UTF-8: {error}") from error
        raw = raw.lstrip("\ufeff") if number == 1 else raw
        if raw.strip():
            yield _line(number, raw.rstrip("\r\n"), default, known)


def _line(number: int, raw: str, default: str | None, known: Sequence[str]) -> _Line:
    if not raw.lstrip().startswith("{"):
        return _Line(number=number, text=raw, prompt=default, more={})
    try:
        fields = json.loads(raw, parse_constant=_no_constant)
        raw.encode()
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise click.ClickException(f"line {number} holds half a character; leave it out") from error
    except RecursionError as error:
        raise click.ClickException(f"line {number} is nested too deep to be read") from error
    except ValueError as error:
        raise click.ClickException(
            f"line {number} begins as a JSON object and is none ({error}); mend it, or write texts that begin "
            'with { as {"text": "…"}'
        ) from error
    text, prompt = fields.pop("text", None), fields.pop("prompt", default)
    for ours in _OURS:  # of an earlier run, whose output this file may be
        fields.pop(ours, None)
    if not isinstance(text, str):
        raise click.ClickException(f'line {number} has no "text" that is a text: {raw[:60]}')
    if prompt is not None and prompt not in known:
        listed = ", ".join(known) or "none"
        raise click.ClickException(
            f"line {number} names the prompt {prompt!r}, and given are {listed}; add it with --prompt"
        )
    return _Line(number=number, text=text, prompt=prompt, more=fields)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _sampling(temperature: float | None, top_p: float | None, seed: int | None) -> dict[str, Any]:
    """Return what ``generate`` takes for drawing tokens."""
    if temperature is not None and temperature != temperature:  # noqa: PLR0124  # nan
        raise click.UsageError("--temperature is nan; give a number")
    if temperature is None:
        if top_p is not None or seed is not None:
            raise click.UsageError("--top-p and --seed are for drawing: add --temperature")
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if seed is not None:
        import torch

        torch.manual_seed(seed)
    return {"do_sample": True, "temperature": temperature, "top_p": top_p or 1.0, "top_k": 0}


def _answer(
    prompted: "PromptedModel", lines: Sequence[_Line], how: dict[str, Any]
) -> "list[Answer | str]":
    """Return the answer to each line, or why there is none: one bad line takes no other with it."""
    from promptreg.errors import NonFiniteError, PromptregError

    texts = [line.text for line in lines]
    names = [line.prompt for line in lines]
    try:
        return [*prompted.answer(texts, prompts=names, **how)]
    except NonFiniteError as error:
        given: Any = error.output
        return [str(error) if answer is None else answer for answer in given]
    except PromptregError as error:
        if len(lines) == 1:
            return [str(error)]
    return [found for line in lines for found in _answer(prompted, [line], how)]


def _fields(line: _Line, found: "Answer | str") -> dict[str, Any]:
    """Return what is written for a line."""
    fields: dict[str, Any] = {**line.more, "text": line.text, "prompt": line.prompt}
    if isinstance(found, str):
        return fields | {"error": found}
    fields["answer"] = found.text
    if found.scores is not None:
        fields["scores"] = {label: round(score, 6) for label, score in found.scores.items()}
    return fields


COMMANDS = (generate,)
