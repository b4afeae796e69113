"""The words that the demo's models are trained on, and those kept back to try them on."""

import random
from collections.abc import Sequence
from functools import cache
from importlib import resources

__all__ = ["LONGEST", "held_out_words", "invented_word", "text_of", "training_words"]

LONGEST = 12  # letters and spaces of one text; the tiny model is not trained on longer ones

_UNPRONOUNCEABLE = 0.3  # the share of invented words that are any letters at all
_CLOSED_SYLLABLES = 0.4  # the share of invented syllables that end in a consonant
_PAIRS = 0.5  # the share of texts that are two words, where two are short enough

_VOWELS = "aeiou"
_CONSONANTS = "bcdfghjklmnpqrstvwxyz"


def held_out_words() -> tuple[str, ...]:
    """Return every fourth word: neither the base model nor a prompt was trained on these."""
    return _words()[2::4]


def training_words() -> tuple[str, ...]:
    """Return the other three quarters."""
    held_out = set(held_out_words())
    return tuple(word for word in _words() if word not in held_out)


def invented_word(rng: random.Random) -> str:
    """Return three to ten letters, mostly in pronounceable syllables, never a held-out word.

    A few hundred real words would be learnt by heart. Invented ones do not run out, so that only
    a model that has learnt the operation itself gets them right.
    """
    length = rng.randint(3, 10)
    word = ""
    if rng.random() < _UNPRONOUNCEABLE:
        word = "".join(rng.choices(_VOWELS + _CONSONANTS, k=length))
    while len(word) < length:
        word += rng.choice(_CONSONANTS) + rng.choice(_VOWELS)
        if rng.random() < _CLOSED_SYLLABLES:
            word += rng.choice(_CONSONANTS)
    word = word[:length]
    return invented_word(rng) if word in held_out_words() else word


def text_of(words: Sequence[str], rng: random.Random) -> str:
    """Return one of ``words``, or every other time two of them, where two are short enough."""
    first, second = rng.choice(words), rng.choice(words)
    pair = f"{first} {second}"
    return pair if len(pair) <= LONGEST and rng.random() < _PAIRS else first


@cache
def _words() -> tuple[str, ...]:
    return tuple(resources.files(__package__).joinpath("words.txt").read_text("ascii").split())
