"""Plans: what all runs of a tuning have in common, checked and cut to the base model before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptreg.errors import InvalidDataError, TuningError
from promptreg.pushing import check_labels, check_template, check_words
from promptreg.tuning.rows import Reading, check_known, cut, make_rows
from promptreg.tuning.trials import reading_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from promptreg.bases import BaseModel
    from promptreg.models import PromptedModel
    from promptreg.prompts import SoftPrompt
    from promptreg.tuning.data import Examples
    from promptreg.tuning.watching import Watcher

__all__ = ["DEFAULT_TEMPLATE", "Plan", "cut_plan", "read_plan"]

DEFAULT_TEMPLATE = "{text}\nAnswer:"
"""What a decoder reads if nobody says: only that an answer is wanted."""
_FEWEST_CLASSES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all runs of a tuning have in common.

    Attributes:
        base: The base model's fingerprint with its table of weights, which tells a new classifier from an old
            one.
        train: What is learned from.
        dev: What the prompts are compared by, and stopped by.
        test: What the finished ones are measured on besides.
        template: The text around each text, with ``{text}`` where it goes; None for the bare text.
        labels: The label words, in order; those of ``train`` if empty.
        max_length: How many tokens a text has at most, its template among them; longer ones are cut.
        mixed_precision: Whether to compute in bfloat16 what bears it, in an otherwise float32 base model.
        recompute: Whether to compute activations anew in the backward pass.
        whole_model: Whether to train the base model's own weights instead of prompts (model tuning), one recipe
            at a time: a baseline, of which no prompt comes.
        stop_hopeless: Whether to stop runs that are clearly behind the others.
        columns: How many columns a pass with gradients may have at first; 0 for what is usual on the device.
        parents: The prompts that ``prompt:REF`` names.
        checkpoints: Where runs write down where they stand; None for nowhere.
        fresh: Whether to forget the checkpoints that are there.
    """

    base: "BaseModel"
    train: "Examples"
    dev: "Examples"
    test: "Examples | None" = None
    template: str | None = None
    labels: tuple[str, ...] = ()
    max_length: int = 512
    mixed_precision: bool = False
    recompute: bool = False
    whole_model: bool = False
    stop_hopeless: bool = False
    columns: int = 0
    parents: "Mapping[str, SoftPrompt]" = field(default_factory=dict)
    checkpoints: Path | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        check_template(self.template)
        check_words("the labels", self.labels)
        check_labels(self.labels or self.train.labels)


def read_plan(prompted: "PromptedModel", plan: Plan) -> Reading:
    """Return how examples are put to the base model, after checking that they can be learned from.

    Raises:
        InvalidDataError: They cannot.
    """
    labels = plan.labels or plan.train.labels
    for examples in (plan.dev, plan.test):
        if examples is not None and examples.labelled != plan.train.labelled:
            kinds = {True: "labels", False: "targets"}
            raise InvalidDataError(
                str(examples.path),
                None,
                f"it has {kinds[examples.labelled]}, and {plan.train.path} has {kinds[plan.train.labelled]}",
                "write both alike",
            )
    if plan.train.labelled:
        if len(set(plan.train.labels)) < _FEWEST_CLASSES:
            raise InvalidDataError(
                str(plan.train.path),
                None,
                f"all its examples have the one label {plan.train.labels[0]!r}",
                "add examples of other labels",
            )
        known_from = "those given" if plan.labels else f"those in {plan.train.path}"
        for examples in (plan.train, plan.dev, plan.test):
            if examples is not None:
                check_known(
                    examples, labels, known_from, "mend the label, or name all labels with --label"
                )
    else:
        labels = ()
    anatomy = prompted.anatomy
    if anatomy.pooled and not plan.train.labelled:
        raise InvalidDataError(
            str(plan.train.path),
            None,
            f"it has targets, and a {type(prompted.model).__name__} answers with classes",
            "write labels, or load a model that writes text",
        )
    if anatomy.pooled:
        labels = _in_order_of_classes(prompted, labels, plan.train)
    return reading_of(prompted, plan.template, tuple(labels))


def _in_order_of_classes(
    prompted: "PromptedModel", labels: Sequence[str], train: "Examples"
) -> tuple[str, ...]:
    """Return the labels of a classifier in the order of its classes, where it calls them so."""
    names: Mapping[Any, str] = prompted.config.id2label or {}
    classes = tuple(names[at] for at in sorted(names))
    if len(labels) != len(classes):
        raise InvalidDataError(
            str(train.path),
            None,
            f"there are {len(labels)} labels, and the base model tells {len(classes)} classes apart",
            f"load the base model with num_labels={len(labels)}, or name all labels with --label",
        )
    return classes if set(classes) == set(labels) else tuple(labels)


def cut_plan(
    prompted: "PromptedModel", plan: Plan, reading: Reading, *, longest: int, watcher: "Watcher"
) -> Plan:
    """Return the plan with texts that fit beside the longest prompt and the longest answer.

    Args:
        prompted: The base model.
        plan: The plan.
        reading: How its examples are put to the base model.
        longest: How many virtual tokens the longest prompt has.
        watcher: What is told how many texts were cut.

    Raises:
        TuningError: There is no room for any text.
    """
    from promptreg.models.anatomy import Kind

    anatomy = prompted.anatomy
    room = plan.max_length
    if anatomy.window is not None:
        answer = 0
        if anatomy.kind is Kind.DECODER and not anatomy.pooled:
            given = [each for each in (plan.train, plan.dev, plan.test) if each is not None]
            answer = max(_longest_answer(each, reading, anatomy.window) for each in given)
        room = min(room, anatomy.window - longest - answer)
    if room < 1:
        raise TuningError(
            f"{longest} tokens of prompt and {answer} of the longest answer take the model's whole window of "
            f"{anatomy.window}",
            "use a shorter prompt",
        )

    def cut_set(name: str, examples: "Examples") -> "Examples":
        found, count = cut(examples, reading, room)
        if count:
            watcher.noted(
                f"{count} of the {len(examples)} {name} texts are longer than {room} tokens and were cut"
            )
        return found

    return replace(
        plan,
        train=cut_set("train", plan.train),
        dev=cut_set("dev", plan.dev),
        test=None if plan.test is None else cut_set("test", plan.test),
        max_length=room,
    )


def _longest_answer(examples: "Examples", reading: Reading, window: int) -> int:
    """Return how many tokens the longest answer has.

    Raises:
        InvalidDataError: It leaves no room in the window for any text.
    """
    rows = make_rows(examples, reading)
    at = max(range(len(rows)), key=lambda index: len(rows[index].answer))
    length = len(rows[at].answer)
    if length + 1 >= window:
        raise InvalidDataError(
            str(examples.path),
            examples.items[at].line,
            f"its answer has {length} tokens, and the model's whole window {window}",
            "shorten it, or leave the line out",
        )
    return length
