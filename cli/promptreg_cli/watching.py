"""Watching a training: a bar with loss, score and time left on a terminal, else a plain log."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from promptreg_cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptreg.tuning import Learner

__all__ = ["Watching"]

_MINUTE, _HOUR = 60, 3600


class Watching:
    """Shows how a training of ``runs`` prompts goes on; what is told as ``promptreg.tuning.Watcher`` says.

    Attributes:
        taken: How many steps were taken.
    """

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._bar: Any = None
        self._job: Any = None
        self._began: float | None = None
        self.taken = 0
        self._learners: dict[str, Learner] = {}

    def __enter__(self) -> Self:
        if output.is_terminal(sys.stderr):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("training"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                console=Console(stderr=True),
                transient=True,
                expand=True,
            )
            self._job = self._bar.add_task("", total=None, state="looking at the start")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stepped(self, learners: "Sequence[Learner]") -> None:
        """Count the step."""
        if self._began is None:
            self._began = time.monotonic()
        self.taken += 1
        self._learners.update((learner.name, learner) for learner in learners)
        if self._bar is None:
            return
        known = self._learners.values()
        done = sum(learner.step for learner in known)
        whole = done + sum(
            learner.recipe.steps - learner.step for learner in known if learner.running
        )
        self._bar.update(self._job, completed=done, total=whole, state=self._state(learners))

    def looked(self, learner: "Learner") -> None:
        """Log what was seen."""
        self._learners[learner.name] = learner
        look, best = learner.looks[-1], learner.best_look
        run = f"{learner.name}  " if self._runs > 1 else ""
        loss = "" if look.train_loss is None else f"  loss {look.train_loss:.3f}"
        line = f"{run}step {look.step}/{learner.recipe.steps}{loss}  dev {look.score:.4f}"
        if best is not look:
            line += f" (best {best.score:.4f} at {best.step})"
        left = self._left([each for each in self._learners.values() if each.running])
        self._say(line + (f"  {left} left" if left else ""))

    def noted(self, text: str) -> None:
        """Say it."""
        self._say(text)

    def _state(self, learners: "Sequence[Learner]") -> str:
        losses = [learner.losses[-1] for learner in learners if learner.losses]
        looks = [learner.best_look.score for learner in self._learners.values() if learner.looks]
        parts = [
            f"loss {sum(losses) / len(losses):.3f}" if losses else "",
            f"dev {max(looks):.3f}" if looks else "",
            f"{left} left" if (left := self._left(learners)) else "",
        ]
        return "  ".join(part for part in parts if part)

    def _left(self, learners: "Sequence[Learner]") -> str:
        """Return how long the steps that are left will take, at the pace so far."""
        if self._began is None or not learners:
            return ""
        most = max(learner.recipe.steps - learner.step for learner in learners)
        return _duration((time.monotonic() - self._began) / self.taken * most)

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            output.note(line)


def _duration(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"
