"""Examples as token ids: texts in their template, cut to the room that there is, and what is to be answered.

T is a text's tokens, M an answer's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from promptreg.answers import fill, label_ids, target_ids
from promptreg.errors import InvalidDataError, TuningError
from promptreg.tuning.data import Examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Reading", "Row", "check_known", "cut", "make_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How examples are put to a base model.

    Attributes:
        tokenizer: The base model's.
        template: The text around each text, with ``{text}`` where it goes; None for the bare text.
        labels: The label words; none if the answers are targets.
        with_end: Whether an answer's end belongs to it (an encoder-decoder's does, and a target's).
        classifies: Whether the base model has classes, in the labels' order, so that an answer is one of them.
    """

    tokenizer: "PreTrainedTokenizerBase"
    template: str | None
    labels: tuple[str, ...]
    with_end: bool = False
    classifies: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One example, ready for a batch.

    Attributes:
        ids: [T] The token ids of the text in its template.
        answer: [M] Those of the answer; none where the base model classifies.
        label: Which of the labels is right; -1 if the answer is a target.
    """

    ids: tuple[int, ...]
    answer: tuple[int, ...] = ()
    label: int = -1

    @property
    def width(self) -> int:
        """How many tokens it takes."""
        return len(self.ids) + len(self.answer)


def make_rows(examples: Examples, reading: Reading) -> list[Row]:
    """Return the examples as rows.

    Raises:
        InvalidValueError: The labels cannot be told apart by their tokens.
        InvalidDataError: A text has no tokens.
    """
    texts = [fill(reading.template, example.text) for example in examples.items]
    encoded = [tuple(ids) for ids in reading.tokenizer(texts)["input_ids"]]
    for example, ids in zip(examples.items, encoded, strict=True):
        if not ids:
            raise InvalidDataError(
                str(examples.path), example.line, "its text has no tokens", "give it a word"
            )
    answers = _answers(examples, reading)
    index = {label: at for at, label in enumerate(reading.labels)}
    return [
        Row(ids=ids, answer=answer, label=index.get(example.answer, -1))
        for example, ids, answer in zip(examples.items, encoded, answers, strict=True)
    ]


def _answers(examples: Examples, reading: Reading) -> list[tuple[int, ...]]:
    wanted = [example.answer for example in examples.items]
    if reading.classifies:
        return [()] * len(wanted)
    if reading.labels:
        found = label_ids(
            reading.tokenizer, reading.labels, reading.template, with_end=reading.with_end
        )
        by_label = dict(zip(reading.labels, map(tuple, found), strict=True))
        return [by_label[answer] for answer in wanted]
    return [
        tuple(
            target_ids(
                reading.tokenizer, answer, reading.template, behind=not reading.with_end, end=True
            )
        )
        for answer in wanted
    ]


def check_known(examples: Examples, labels: Sequence[str], known_from: str, remedy: str) -> None:
    """Return if every label of ``examples`` is known.

    Raises:
        InvalidDataError: One is not: its line.
    """
    for example in examples.items:
        if example.answer not in labels:
            raise InvalidDataError(
                str(examples.path),
                example.line,
                f"its label {example.answer!r} is none of {known_from}: {', '.join(labels)}",
                remedy,
            )


def cut(examples: Examples, reading: Reading, room: int) -> tuple[Examples, int]:
    """Return the examples with texts of at most ``room`` tokens in their template, the ends cut off.

    Returns:
        The examples, and how many of them were cut.

    Raises:
        TuningError: The template alone takes the room.
    """
    tokenizer = reading.tokenizer
    texts = [fill(reading.template, example.text) for example in examples.items]
    long = [at for at, ids in enumerate(tokenizer(texts)["input_ids"]) if len(ids) > room]
    if not long:
        return examples, 0
    empty = len(tokenizer(fill(reading.template, ""))["input_ids"])
    if empty >= room:
        raise TuningError(
            f"the template takes {empty} tokens, and there is room for {room} beside the prompt and the answer",
            "use a shorter template or prompt, or a larger --max-length",
        )
    items = list(examples.items)
    for at, text in zip(
        long, _beginnings([items[at].text for at in long], reading, room), strict=True
    ):
        items[at] = replace(items[at], text=text)
    return replace(examples, items=tuple(items)), len(long)


def _beginnings(texts: Sequence[str], reading: Reading, room: int) -> list[str]:
    """Return as much of each text's beginning as fits, by halving: tokens join across any cut.

    All at once, because a tokenizer takes many texts faster than one after another.
    """
    low, high = [0] * len(texts), [len(text) for text in texts]
    while open_ := [at for at in range(len(texts)) if high[at] - low[at] > 1]:
        middle = [(low[at] + high[at]) // 2 for at in open_]
        filled = [
            fill(reading.template, texts[at][:end]) for at, end in zip(open_, middle, strict=True)
        ]
        for at, end, ids in zip(open_, middle, reading.tokenizer(filled)["input_ids"], strict=True):
            if len(ids) <= room:
                low[at] = end
            else:
                high[at] = end
    return [text[:end] for text, end in zip(texts, low, strict=True)]
