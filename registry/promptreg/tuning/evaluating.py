"""Measuring prompts on examples, all of them in mixed batches.

N is the number of examples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptreg.tuning.data import Examples
from promptreg.tuning.rows import make_rows
from promptreg.tuning.scores import Score, accuracy, macro_f1, perplexity
from promptreg.tuning.trials import Question, prepare, reading_of

if TYPE_CHECKING:
    from promptreg.answers import Answer
    from promptreg.models import PromptedModel
    from promptreg.models.answering import Asked

__all__ = [
    "Evaluation",
    "Question",
    "ask",
    "evaluate",
    "likelihoods",
    "score",
]

_COLUMNS = 8192  # of a pass without gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a prompt scored on examples.

    Attributes:
        scores: Its scores by name.
        max_length: How many tokens a text could have, its template among them; None for any number.
        cut: How many texts had more, and were cut.
    """

    scores: Mapping[str, Score]
    max_length: int | None
    cut: int


def evaluate(
    prompted: "PromptedModel",
    names: Sequence[str | None],
    examples: Examples,
    *,
    max_length: int | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str | None, Evaluation]:
    """Measure prompts on the same examples, a row for each prompt and example in mixed batches.

    Texts are cut as in training: at their ends, to what fits into the base model's window beside the prompt and
    the longest answer, and to ``max_length`` tokens.

    Args:
        prompted: The prompted model.
        names: The prompts; None for the bare base model.
        examples: What to answer, and how.
        max_length: How many tokens a text has at most, its template among them; None for what each prompt was
            trained with, its hyperparameter ``max_length``, if it has one.
        max_new_tokens: How long a continuation gets at most; None for as long as the longest answer wanted.
        batch_size: How many rows go through the base model at once.
        progress: Called with how many answers are there, of how many.

    Returns:
        What each prompt scored: ``accuracy`` and ``macro_f1`` on labels; on targets ``exact_match``, white
        space at the ends apart, and ``perplexity``, the inverse of the geometric mean of the probabilities of
        their tokens (an ensemble has none).

    Raises:
        InvalidDataError: The examples are none for a prompt: a label that it does not know, or a target where
            it chooses from labels.
        TuningError: There is no room for any text.
        AttachError, NonFiniteError: As ``PromptedModel.answer`` says.
    """
    trials = {name: prepare(prompted, name, examples, max_length) for name in names}
    found = _answer_all(
        prompted,
        {name: trial.asked for name, trial in trials.items()},
        {name: trial.examples for name, trial in trials.items()},
        max_new_tokens=max_new_tokens
        or max((trial.answer for trial in trials.values()), default=1),
        batch_size=batch_size,
        progress=progress,
    )
    return {
        name: Evaluation(
            scores=score(prompted, trial.asked, trial.examples, found[name], batch_size=batch_size),
            max_length=trial.max_length,
            cut=trial.cut,
        )
        for name, trial in trials.items()
    }


def ask(
    prompted: "PromptedModel",
    asked: "Mapping[str | None, Asked | None]",
    examples: Examples,
    *,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> "dict[str | None, list[Answer]]":
    """Return [N] the answers of each of those asked to all examples, in mixed batches.

    Raises:
        AttachError, NonFiniteError: As ``PromptedModel.answer`` says.
    """
    return _answer_all(
        prompted,
        asked,
        dict.fromkeys(asked, examples),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )


def score(
    prompted: "PromptedModel",
    asked: "Asked",
    examples: Examples,
    answers: "Sequence[Answer]",
    *,
    batch_size: int = _COLUMNS,
) -> dict[str, Score]:
    """Return what ``answers`` [N] score, and how likely the targets are; an ensemble has no perplexity."""
    wanted = [example.answer.strip() for example in examples.items]
    found = [answer.text.strip() for answer in answers]
    if examples.labelled:
        return {"accuracy": accuracy(found, wanted), "macro_f1": macro_f1(found, wanted)}
    scores = {"exact_match": accuracy(found, wanted)}
    if len(asked.tokens) == 1:
        surprise = likelihoods(prompted, asked, examples, batch_size=batch_size)
        scores["perplexity"] = perplexity(*surprise)
    return scores


def likelihoods(
    prompted: "PromptedModel", asked: "Asked", examples: Examples, *, batch_size: int = _COLUMNS
) -> tuple[list[float], list[int]]:
    """Return how likely each target is.

    Args:
        prompted: The prompted model.
        asked: The prompt; a single one.
        examples: The texts and their targets.
        batch_size: How many rows go through the base model at once, at most.

    Returns:
        [N] The negative log-likelihood of each target, in nats, summed over its tokens; and [N] how many tokens
        it has, its end among them.
    """
    import torch

    from promptreg.tuning.batching import pack
    from promptreg.tuning.objective import losses

    (tokens,) = asked.tokens
    rows = make_rows(examples, reading_of(prompted, asked.template, ()))
    found = [0.0] * len(rows)
    virtual = 0 if tokens is None else tokens.length
    widths = [virtual + row.width for row in rows]
    kinds = widths if prompted.anatomy.wants_rows_alike else ()
    with torch.no_grad():
        for near in pack(widths, _COLUMNS, kinds=kinds):
            for start in range(0, len(near), batch_size):
                group = near[start : start + batch_size]
                mixed = prompted.mix([tokens] * len(group))
                own = losses(prompted, mixed, [rows[at] for at in group]).tolist()
                for at, loss in zip(group, own, strict=True):
                    found[at] = loss
    return found, [len(row.answer) for row in rows]


def _answer_all(
    prompted: "PromptedModel",
    asked: "Mapping[str | None, Asked | None]",
    examples: Mapping[str | None, Examples],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> "dict[str | None, list[Answer]]":
    """Return [N] the answers of each of those asked to its own examples, in mixed batches."""
    from promptreg.models.answering import answer_texts

    by_example = zip(*(examples[name].items for name in asked), strict=True)
    rows = [
        (name, example.text) for own in by_example for name, example in zip(asked, own, strict=True)
    ]
    found: dict[str | None, list[Answer]] = {name: [] for name in asked}
    # A few batches at a time: what is sorted by length within them wastes little on padding.
    step = batch_size * 8
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        answers = answer_texts(
            prompted,
            [text for _, text in some],
            [asked[name] for name, _ in some],
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            arguments={"do_sample": False},
        )
        for (name, _), answer in zip(some, answers, strict=True):
            found[name].append(answer)
        if progress is not None:
            progress(start + len(some), len(rows))
    return found
