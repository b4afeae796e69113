"""Answers: what a prompt's manifest makes of a text, and of what the model says to it.

The template says how a text is put to the model, the label words what it may answer. Pure values and functions:
what runs the model (transformers in this process, or vLLM) brings the log-probabilities.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptreg.errors import AttachError, InvalidValueError
from promptreg.prompts import Vote

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Answer", "choose_label", "fill", "label_ids", "target_ids", "vote"]

_TEXT = "{text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a prompt, or the bare base model, says to a text.

    Attributes:
        prompt: The name of the prompt that answered; None for the bare base model.
        text: The label, or the continuation.
        scores: The probability of each label, in the manifest's order; None where there are no labels.
    """

    prompt: str | None
    text: str
    scores: Mapping[str, float] | None = None


def fill(template: str | None, text: str) -> str:
    """Return ``text`` as the prompt wants it put: in the place of ``{text}`` in its template, if it has one."""
    return text if template is None else template.replace(_TEXT, text)


def label_ids(
    tokenizer: "PreTrainedTokenizerBase",
    labels: Sequence[str],
    template: str | None,
    *,
    with_end: bool = False,
) -> list[list[int]]:
    """Return the tokens that each label is behind a filled template: those that a model has to say.

    A label is a word behind the others, so it begins with a space, unless the template ends with one (or with a
    new line) already.

    Args:
        tokenizer: The base model's.
        labels: The label words.
        template: The template that they follow.
        with_end: Whether the end of the sequence belongs to each (an encoder-decoder's answer is nothing else).

    Raises:
        InvalidValueError: A label has no tokens, or the tokens of one begin another, so that nothing tells
            whether the longer one was meant.
    """
    found = [
        target_ids(tokenizer, label, template, behind=not with_end, end=with_end)
        for label in labels
    ]
    for at, ids in enumerate(found):
        for other, longer in enumerate(found):
            if at != other and longer[: len(ids)] == ids:
                same = longer == ids
                raise InvalidValueError(
                    "the label",
                    labels[at],
                    f"its tokens {'are' if same else 'begin'} those of {labels[other]!r}",
                    "use label words that the tokenizer knows, of which none begins another",
                )
    return found


def target_ids(
    tokenizer: "PreTrainedTokenizerBase",
    target: str,
    template: str | None,
    *,
    behind: bool,
    end: bool,
) -> list[int]:
    """Return the tokens of an answer, as a model has to say them.

    Args:
        tokenizer: The base model's.
        target: The label word, or the text.
        template: The template that it follows.
        behind: Whether it continues the filled template, and so begins with a space if the template does not
            end with one.
        end: Whether the end of the sequence belongs to it.

    Raises:
        InvalidValueError: It has no tokens.
    """
    joined = template is not None and template[-1:].isspace()
    space = " " if behind and not joined and not target[:1].isspace() else ""
    own = list(tokenizer(space + target, add_special_tokens=False)["input_ids"])
    if not own:
        raise InvalidValueError("the label", target, "it has no tokens", "name it by a word")
    ends = [tokenizer.eos_token_id] if end and tokenizer.eos_token_id is not None else []
    return own + ends


def choose_label(prompt: str | None, labels: Sequence[str], log_probs: Sequence[float]) -> Answer:
    """Return the likeliest label.

    Args:
        prompt: The name of the prompt that answers.
        labels: The C label words.
        log_probs: [C] The log-probability of each: the sum over its tokens.

    Raises:
        AttachError: They are not numbers.
    """
    if not all(math.isfinite(each) for each in log_probs):
        raise AttachError(
            f"{prompt or 'the bare base model'} gives outputs that are not finite",
            "check the prompt's values, or run the base model in a wider dtype",
        )
    most = max(log_probs)
    weights = [math.exp(each - most) for each in log_probs]
    scores = {label: weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}
    return Answer(prompt=prompt, text=max(scores, key=lambda label: scores[label]), scores=scores)


def vote(answers: Sequence[Answer], how: Vote, prompt: str) -> Answer:
    """Return what an ensemble says: the paper's section 6.

    Args:
        answers: What its members say, in their order.
        how: Whether the answer most often given wins (the likelier one of two, then the first), or the label
            with the largest mean probability.
        prompt: The ensemble's name.

    Raises:
        AttachError: Mean probabilities are asked for, and the members give none.
    """
    scores = _mean_scores(answers)
    if how is Vote.MEAN:
        if scores is None:
            raise AttachError(
                f"{prompt} votes by mean probability, and its members have no labels to be probable",
                "register the ensemble with the vote 'majority'",
            )
        return Answer(
            prompt=prompt, text=max(scores, key=lambda label: scores[label]), scores=scores
        )
    counts = Counter(answer.text for answer in answers)
    order = list(counts)  # as first given

    def rank(text: str) -> tuple[int, float, int]:
        return counts[text], (scores or {}).get(text, 0.0), -order.index(text)

    winner = max(order, key=rank)
    # An ensemble that counts votes is as sure as its votes are.
    shares = scores and {label: counts[label] / len(answers) for label in scores}
    return Answer(prompt=prompt, text=winner, scores=shares)


def _mean_scores(answers: Sequence[Answer]) -> dict[str, float] | None:
    """Return each label's mean probability over the answers; None if one has no scores."""
    given = [answer.scores for answer in answers if answer.scores is not None]
    if not given or len(given) != len(answers):
        return None
    return {label: sum(scores[label] for scores in given) / len(given) for label in given[0]}
