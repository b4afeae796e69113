"""Training prompts: many at once in one batch, on the one frozen base model.

Every step takes the next examples of each prompt, puts all rows together, sorts them by length and sends them
through the base model in passes that fit into memory. Rows do not see each other, and each prompt's loss is
the mean over its own answers' tokens, so its gradient is what it would be alone.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from promptreg.errors import TuningError
from promptreg.models.mixing import mix
from promptreg.tuning.batching import pack
from promptreg.tuning.learners import Learner, Outcome
from promptreg.tuning.looking import look, mark_hopeless
from promptreg.tuning.objective import losses

if TYPE_CHECKING:
    from promptreg.models import PromptedModel
    from promptreg.tuning.data import Examples
    from promptreg.tuning.rows import Reading, Row
    from promptreg.tuning.watching import Watcher

__all__ = ["Training"]

_COLUMNS = {"cpu": 2048}  # of a pass with gradients; a CPU's memory is full without a word
_COLUMNS_ELSEWHERE = 65_536
_SAVED_EVERY = 60.0  # seconds


@dataclass(slots=True, kw_only=True, eq=False)
class Training:
    """A training of one or many prompts.

    Attributes:
        prompted: The frozen base model.
        learners: The prompts.
        dev: What they are measured on, as they read it.
        reading: How they read it.
        columns: How many columns a pass with gradients may have; halved whenever memory runs out. 0 for what is
            usual on the device.
        looked_at: How many rows of ``dev`` go through the base model at once.
        mixed_precision: Whether to compute in bfloat16 what bears it (torch.autocast).
        stop_hopeless: Whether to stop prompts that are clearly worse than the others.
        watcher: What is told.
        save: Called with each prompt whose state should be kept.
        stop: Asked before each step whether to stop.
    """

    prompted: "PromptedModel"
    learners: Sequence[Learner]
    dev: "Examples"
    reading: "Reading"
    columns: int = 0
    looked_at: int = 64
    mixed_precision: bool = False
    stop_hopeless: bool = False
    watcher: "Watcher"
    save: Callable[[Learner], None] = lambda _learner: None
    stop: Callable[[], bool] = lambda: False

    def run(self) -> None:
        """Train until every prompt has an outcome.

        Raises:
            TuningError: There is not memory enough for a single row.
        """
        saved = time.monotonic()
        self._look()
        while running := [learner for learner in self.learners if learner.running]:
            if self.stop():
                for learner in running:
                    learner.outcome = Outcome.INTERRUPTED
                    self.save(learner)
                return
            self.step(running)
            self.watcher.stepped(running)
            looked = self._look()
            if time.monotonic() - saved > _SAVED_EVERY:
                looked, saved = running, time.monotonic()
            for learner in looked:
                self.save(learner)

    def _look(self) -> Sequence[Learner]:
        """Measure those for whom it is time, and return them."""
        due = [learner for learner in self.learners if learner.running and learner.due]
        while waiting := [learner for learner in due if learner.running and learner.due]:
            try:
                with self._precision():
                    look(self.prompted, waiting, self.dev, self.reading, batch_size=self.looked_at)
            except RuntimeError as error:
                if not _is_out_of_memory(error) or self.looked_at == 1:
                    raise
                self.looked_at //= 2
                self.watcher.noted(
                    f"memory ran out: {self.looked_at} rows of --dev now go through the model at once"
                )
        for learner in due:
            if learner.outcome is Outcome.DIVERGED:
                self.watcher.noted(f"{learner.name} diverged at step {learner.step}")
            else:
                self.watcher.looked(learner)
        if self.stop_hopeless:
            for learner in mark_hopeless(self.learners):
                self.watcher.noted(f"{learner.name} is clearly behind the others and was stopped")
        return due

    def step(self, learners: Sequence[Learner]) -> None:
        """Let each of ``learners`` take one step, in passes that fit into memory."""
        began = time.perf_counter()
        rows = [(at, row) for at, each in enumerate(learners) for row in each.next_rows()]
        widths = [learners[at].length + row.width for at, row in rows]
        kinds: list[tuple[int, int]] = []
        if self.prompted.anatomy.wants_rows_alike:
            kinds = [(learners[at].length, row.width) for at, row in rows]
        while True:
            columns = self.columns or _COLUMNS.get(self.prompted.device.type, _COLUMNS_ELSEWHERE)
            try:
                sums = self._backward(learners, rows, pack(widths, columns, kinds=kinds))
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                self._shrink(columns, max(widths), learners)
                continue
            break
        for learner, loss in zip(learners, sums.tolist(), strict=True):
            learner.update(loss)
            if not learner.running:
                self.watcher.noted(f"{learner.name} diverged at step {learner.step}")
        seconds, whole = time.perf_counter() - began, sum(widths)
        for (at, _), width in zip(rows, widths, strict=True):
            learners[at].seconds += seconds * width / whole

    def _backward(
        self,
        learners: Sequence[Learner],
        rows: "Sequence[tuple[int, Row]]",
        passes: Sequence[Sequence[int]],
    ) -> torch.Tensor:
        """Add up the gradients of all passes; return [K] the loss of each of the K learners."""
        counts = [0] * len(learners)
        for at, row in rows:
            counts[at] += max(len(row.answer), 1)
        sums = torch.zeros(len(learners), device=self.prompted.device)
        for group in passes:
            here = [rows[index] for index in group]
            tokens = {at: learners[at].tokens(self.prompted.dtype) for at, _ in here}
            mixed = mix([tokens[at] for at, _ in here], {})
            share = torch.tensor([1 / counts[at] for at, _ in here], device=sums.device)
            with self._precision():
                own = losses(self.prompted, mixed, [row for _, row in here]).to(sums.device) * share
            torch.autograd.backward(own.sum())
            which = torch.tensor([at for at, _ in here], device=sums.device)
            sums.index_add_(0, which, own.detach().float())
        return sums

    def _shrink(self, columns: int, widest: int, learners: Sequence[Learner]) -> None:
        """Halve the passes, after memory ran out; what was added up of the step's gradients is forgotten."""
        if columns <= widest:
            raise TuningError(
                f"memory ran out with a single row of {widest} tokens in a pass",
                "lower --max-length, or let activations be computed anew with --recompute",
            )
        self.columns = max(widest, columns // 2)
        for learner in learners:
            learner.optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.watcher.noted(
            f"memory ran out: batches now go through the model {self.columns:,} tokens at a time, not "
            f"{columns:,}; the result is the same"
        )

    def _precision(self) -> AbstractContextManager[object]:
        if not self.mixed_precision:
            return nullcontext()
        return torch.autocast(self.prompted.device.type, dtype=torch.bfloat16)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an allocator gave up; torch's CPU allocator has no class of error of its own."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)
