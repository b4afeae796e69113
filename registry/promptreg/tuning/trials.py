"""Trials: what a prompt is measured on, checked, and cut to the room that there is, before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from promptreg.answers import label_ids
from promptreg.errors import InvalidDataError, TuningError
from promptreg.tuning.data import Examples
from promptreg.tuning.rows import Reading, check_known, cut, make_rows

if TYPE_CHECKING:
    from promptreg.models import PromptedModel
    from promptreg.models.answering import Asked
    from promptreg.models.virtual import VirtualTokens
    from promptreg.prompts import Scalar, Vote

__all__ = ["Question", "Trial", "check_answers", "prepare", "reading_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """How examples are put to a prompt in training, or to the bare base model.

    Attributes:
        name: What the answers are marked with.
        template: The text around the input; None for the bare input.
        labels: The label words to choose from; none for a continuation.
        tokens: The virtual tokens; None for the bare base model.
        vote: None: it is one prompt.
    """

    name: str | None
    template: str | None
    labels: tuple[str, ...]
    tokens: "tuple[VirtualTokens | None, ...]" = (None,)
    vote: "Vote | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one prompt is measured on: the examples as it reads them.

    Attributes:
        asked: The prompt.
        examples: The examples, cut to the room that there is for them.
        max_length: How many tokens a text could have, its template among them; None for any number.
        cut: How many texts had more, and were cut.
        answer: How many tokens the longest answer has.
    """

    asked: "Asked"
    examples: Examples
    max_length: int | None
    cut: int
    answer: int


def check_answers(examples: Examples, labels: Sequence[str], name: str) -> None:
    """Return if a prompt can be right about ``examples``.

    Args:
        examples: The examples.
        labels: The labels that the prompt chooses from; none if it writes its answers.
        name: What to call the prompt.

    Raises:
        InvalidDataError: A label is none of its labels, or it chooses from labels and they have targets.
    """
    if not labels:
        return
    if not examples.labelled:
        raise InvalidDataError(
            str(examples.path),
            None,
            f"it has targets, and {name} chooses from its labels: {', '.join(labels)}",
            'write "label" for "target", or name a prompt that writes text',
        )
    check_known(examples, labels, f"{name}'s", "mend the label, or name a prompt that knows it")


def prepare(
    prompted: "PromptedModel", name: str | None, examples: Examples, max_length: int | None
) -> Trial:
    """Return what a prompt is measured on, after checking that it can be.

    Args:
        prompted: The prompted model.
        name: The prompt; None for the bare base model.
        examples: The examples.
        max_length: How many tokens a text has at most; None for what the prompt was trained with.

    Raises:
        InvalidDataError: The examples are none for the prompt.
        TuningError: There is no room for any text.
    """
    anatomy = prompted.anatomy
    asked: Asked = Question(name=None, template=None, labels=())
    if name is not None:
        held = prompted.prompts[name]
        trained = {} if held.version is None else held.version.hyperparameters
        asked, max_length = held, max_length or _trained_length(trained)
    labels = asked.labels
    if anatomy.pooled and not labels:
        classes: Mapping[Any, str] = prompted.config.id2label or {}
        labels = tuple(classes[at] for at in range(len(classes)))
    check_answers(examples, labels, name or "the bare base model")
    reading = reading_of(prompted, asked.template, labels)
    answer = max(len(row.answer) for row in make_rows(examples, reading))
    if labels and not anatomy.pooled:
        own = label_ids(reading.tokenizer, labels, reading.template, with_end=reading.with_end)
        answer = max(map(len, own))
    longest = max(0 if tokens is None else tokens.length for tokens in asked.tokens)
    room = _room(prompted, virtual=longest, answer=answer, max_length=max_length)
    count = 0
    if room is not None:
        examples, count = cut(examples, reading, room)
    return Trial(asked=asked, examples=examples, max_length=room, cut=count, answer=max(answer, 1))


def reading_of(prompted: "PromptedModel", template: str | None, labels: tuple[str, ...]) -> Reading:
    """Return how examples are put to a prompt with this template and these labels."""
    from promptreg.models.anatomy import Kind

    return Reading(
        tokenizer=prompted.tokenizer,
        template=template,
        labels=labels,
        with_end=prompted.anatomy.kind is Kind.ENCODER_DECODER,
        classifies=prompted.anatomy.pooled,
    )


def _trained_length(hyperparameters: "Mapping[str, Scalar]") -> int | None:
    """Return how many tokens a text had at most in training, if that was registered in so many words."""
    found = hyperparameters.get("max_length")
    return found if type(found) is int and found > 0 else None


def _room(
    prompted: "PromptedModel", *, virtual: int, answer: int, max_length: int | None
) -> int | None:
    """Return how many tokens a text may have beside its prompt and the longest answer.

    Raises:
        TuningError: None.
    """
    from promptreg.models.anatomy import Kind

    anatomy = prompted.anatomy
    if anatomy.window is None:
        return max_length
    continues = anatomy.kind is Kind.DECODER and not anatomy.pooled
    room = anatomy.window - virtual - (answer if continues else 0)
    if room < 1:
        raise TuningError(
            f"{virtual} virtual tokens and an answer of {answer} take the model's whole window of "
            f"{anatomy.window} tokens",
            "measure on shorter answers, or a shorter prompt",
        )
    return room if max_length is None else min(max_length, room)
