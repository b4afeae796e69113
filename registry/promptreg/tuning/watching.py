"""Watching a training: what is told how it goes on."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptreg.tuning.learners import Learner

__all__ = ["Unwatched", "Watcher"]


class Watcher(Protocol):
    """What is told how a training goes on. Its methods are called from the thread that trains."""

    def stepped(self, learners: "Sequence[Learner]") -> None:
        """All ``learners`` that run took a step."""

    def looked(self, learner: "Learner") -> None:
        """``learner`` was measured on the development set."""

    def noted(self, text: str) -> None:
        """Something happened that a person should know."""


class Unwatched:
    """A watcher that does not listen."""

    def stepped(self, learners: "Sequence[Learner]") -> None:
        """Pass over it."""

    def looked(self, learner: "Learner") -> None:
        """Pass over it."""

    def noted(self, text: str) -> None:
        """Pass over it."""
