"""The operations on words that the demo's base model is taught, and the tasks of its prompts.

The base model reads an instruction and a text, and completes the line::

    reverse: garden -> nedrag

Without an instruction it does something dull: it copies. A soft prompt takes the instruction's
place. ``shout-backwards`` is a task for which the base model knows no instruction at all.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from promptreg_cli.demo import words

__all__ = ["ARROW", "INSTRUCTIONS", "TASKS", "Example", "base_example", "task_example"]

ARROW = " -> "

_VOWELS = "aeiou"
_INVENTED = 0.6  # the share of the base model's examples whose words are invented


@dataclass(frozen=True, slots=True)
class Example:
    """One line of training data.

    Attributes:
        question: What the model is given, such as ``reverse: garden``.
        answer: What it is to add, such as `` -> nedrag``.
    """

    question: str
    answer: str


def copy(text: str) -> str:
    """Return ``text``: what the base model does when nothing tells it what to do."""
    return text


def reverse(text: str) -> str:
    """Return the letters in reverse order."""
    return text[::-1]


def shout(text: str) -> str:
    """Return the text in capitals, with an exclamation mark."""
    return text.upper() + "!"


def shout_backwards(text: str) -> str:
    """Return the letters in reverse order, in capitals, with an exclamation mark."""
    return shout(reverse(text))


def plural(text: str) -> str:
    """Return the regular English plural."""
    if text[-1] == "y" and text[-2] not in _VOWELS:
        return text[:-1] + "ies"
    return text + ("es" if text.endswith(("s", "x", "z", "ch", "sh")) else "s")


def past(text: str) -> str:
    """Return the regular English past tense."""
    if text[-1] == "y" and text[-2] not in _VOWELS:
        return text[:-1] + "ied"
    return text + ("d" if text[-1] == "e" else "ed")


def no_vowels(text: str) -> str:
    """Return the text without its vowels."""
    return "".join(letter for letter in text if letter not in _VOWELS)


def count(text: str) -> str:
    """Return how many letters and spaces there are."""
    return str(len(text))


INSTRUCTIONS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "": copy,
        "reverse": reverse,
        "shout": shout,
        "plural": plural,
        "past": past,
        "no vowels": no_vowels,
        "count": count,
    }
)
"""What the base model is taught: the words of an instruction, and what it asks for."""

TASKS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"reverse": reverse, "shout": shout, "shout-backwards": shout_backwards}
)
"""What the soft prompts are trained for, by the prompt's name."""


def base_example(rng: random.Random) -> Example:
    """Draw an example for the base model: any instruction or none, invented and real words."""
    # Bare copying is what the demo shows first, and reversing is the hardest to learn.
    weights = [{"": 2, "reverse": 3}.get(name, 1) for name in INSTRUCTIONS]
    name = rng.choices(list(INSTRUCTIONS), weights)[0]
    invented = [words.invented_word(rng) for _ in range(2)]
    text = words.text_of(invented if rng.random() < _INVENTED else words.training_words(), rng)
    return Example(f"{name}: {text}" if name else text, ARROW + INSTRUCTIONS[name](text))


def task_example(task: str, rng: random.Random) -> Example:
    """Draw an example for the soft prompt of ``task``: real words and no instruction."""
    text = words.text_of(words.training_words(), rng)
    return Example(text, ARROW + TASKS[task](text))
