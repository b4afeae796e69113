"""Measuring attached prompts on examples, all of them in mixed batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from promptreg.errors import InvalidDataError
from promptreg.tuning.data import Examples
from promptreg.tuning.scores import Score, accuracy, macro_f1

if TYPE_CHECKING:
    from promptreg.models import PromptedModel

__all__ = ["evaluate"]


def evaluate(
    prompted: "PromptedModel",
    names: Sequence[str | None],
    examples: Examples,
    *,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str | None, Mapping[str, Score]]:
    """Measure prompts on the same examples, a row for each prompt and example in mixed batches.

    Args:
        prompted: The prompted model.
        names: The prompts; None for the bare base model.
        examples: What to answer, and how.
        max_new_tokens: How long a continuation gets at most.
        batch_size: How many rows go through the base model at once.
        progress: Called with how many answers are there, of how many.

    Returns:
        For each prompt its scores: ``accuracy`` and ``macro_f1`` on labels, ``exact_match`` on targets, white
        space at the ends apart.

    Raises:
        InvalidDataError: A label of the examples is none of a prompt's.
        AttachError, NonFiniteError: As ``PromptedModel.answer`` says.
    """
    for name in names:
        _check_labels(prompted, name, examples)
    rows = [(name, example) for example in examples.items for name in names]
    found: dict[str | None, list[str]] = {name: [] for name in names}
    # A few batches at a time: what is sorted by length within them wastes little on padding.
    step = batch_size * 8
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        answers = prompted.answer(
            [example.text for _, example in some],
            prompts=[name for name, _ in some],
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            do_sample=False,
        )
        for (name, _), answer in zip(some, answers, strict=True):
            found[name].append(answer.text)
        if progress is not None:
            progress(start + len(some), len(rows))
    return {name: _score(found[name], examples) for name in names}


def _check_labels(prompted: "PromptedModel", name: str | None, examples: Examples) -> None:
    known = () if name is None else prompted.prompts[name].labels
    if not examples.labelled or not known:
        return
    for example in examples.items:
        if example.answer not in known:
            raise InvalidDataError(
                str(examples.path),
                example.line,
                f"its label {example.answer!r} is none of {name}'s: {', '.join(known)}",
                "mend the label, or name a prompt that knows it",
            )


def _score(found: Sequence[str], examples: Examples) -> Mapping[str, Score]:
    wanted = [example.answer.strip() for example in examples.items]
    found = [answer.strip() for answer in found]
    if not examples.labelled:
        return {"exact_match": accuracy(found, wanted)}
    return {"accuracy": accuracy(found, wanted), "macro_f1": macro_f1(found, wanted)}
