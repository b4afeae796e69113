"""Looking at the development set: how good the prompts in training are by now, all in mixed batches."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from promptreg.errors import NonFiniteError
from promptreg.tuning.evaluating import Question, ask, likelihoods, score
from promptreg.tuning.learners import Learner, Look, Outcome
from promptreg.tuning.rows import make_rows
from promptreg.tuning.scores import Score, accuracy, perplexity

if TYPE_CHECKING:
    from promptreg.answers import Answer
    from promptreg.models import PromptedModel
    from promptreg.models.answering import Asked
    from promptreg.tuning.data import Examples
    from promptreg.tuning.rows import Reading

__all__ = ["look", "mark_hopeless", "measure", "question"]

_GRACE = 1 / 3  # of its steps that a run has before it can be hopeless
_FEWEST = 3  # runs that a run can be hopeless among


def question(prompted: "PromptedModel", learner: Learner, reading: "Reading") -> Question:
    """Return how examples are put to a prompt in training."""
    return Question(
        name=learner.name,
        template=reading.template,
        labels=reading.labels,
        tokens=(learner.tokens(prompted.dtype),),
    )


def look(
    prompted: "PromptedModel",
    learners: Sequence[Learner],
    dev: "Examples",
    reading: "Reading",
    *,
    batch_size: int,
) -> None:
    """Measure ``learners`` on the development set, and let each take in what was seen.

    One that gets no numbers has diverged; the others are measured all the same.
    """
    import torch

    with torch.no_grad():
        if not reading.labels:
            for learner in learners:
                _see_targets(prompted, learner, question(prompted, learner, reading), dev)
            return
        asked: dict[str | None, Asked | None] = {
            learner.name: question(prompted, learner, reading) for learner in learners
        }
        try:
            found = ask(prompted, asked, dev, batch_size=batch_size)
        except NonFiniteError as error:
            failed = [learner for learner in learners if learner.name in error.prompts]
            for learner in failed:
                learner.outcome = Outcome.DIVERGED
            rest = [learner for learner in learners if learner not in failed]
            if rest:
                look(prompted, rest, dev, reading, batch_size=batch_size)
            return
    for learner in learners:
        _see_labels(learner, found[learner.name], dev)


def measure(
    prompted: "PromptedModel", asked: Question, examples: "Examples", reading: "Reading"
) -> dict[str, Score]:
    """Return what a prompt, or the bare base model, scores; a text gets no longer than the longest wanted.

    Raises:
        AttachError, NonFiniteError: As ``PromptedModel.answer`` says.
    """
    longest = 1 if reading.labels else max(len(row.answer) for row in make_rows(examples, reading))
    answers = ask(prompted, {asked.name: asked}, examples, max_new_tokens=longest)
    return score(prompted, asked, examples, answers[asked.name])


def mark_hopeless(learners: Sequence[Learner]) -> list[Learner]:
    """Stop those that are clearly worse than most of the others, and return them.

    Clearly: at a look after a third of its steps, and at the one before it too, the upper end of a run's
    confidence interval lies under the lower end of the median run's.
    """
    seen = [learner for learner in learners if learner.looks]
    if len(seen) < _FEWEST:
        return []
    best = sorted((learner.best_look for learner in seen), key=lambda each: each.rank)
    middle = best[len(best) // 2]
    stopped = []
    for learner in seen:
        late = [each for each in learner.looks if each.step >= _GRACE * learner.recipe.steps][-2:]
        if learner.running and len(late) > 1 and all(each.high < middle.low for each in late):
            learner.outcome = Outcome.HOPELESS
            stopped.append(learner)
    return stopped


def _see_labels(learner: Learner, answers: "Sequence[Answer]", dev: "Examples") -> None:
    wanted = [example.answer for example in dev.items]
    right = accuracy([answer.text for answer in answers], wanted)
    likely = [
        (answer.scores or {}).get(label, 0.0) for answer, label in zip(answers, wanted, strict=True)
    ]
    # The smallest float, where a probability was rounded to nothing.
    loss = -math.fsum(math.log(max(each, 5e-324)) for each in likely) / len(likely)
    learner.see(
        Look(
            step=learner.step,
            score=right.value,
            low=right.low,
            high=right.high,
            loss=loss,
            train_loss=learner.recent_loss,
        )
    )


def _see_targets(
    prompted: "PromptedModel", learner: Learner, asked: Question, dev: "Examples"
) -> None:
    losses, tokens = likelihoods(prompted, asked, dev)
    if not all(map(math.isfinite, losses)):
        learner.outcome = Outcome.DIVERGED
        return
    surprise = perplexity(losses, tokens)
    learner.see(
        Look(
            step=learner.step,
            score=1 / surprise.value,
            low=1 / surprise.high,
            high=1 / surprise.low,
            loss=math.fsum(losses) / sum(tokens),
            train_loss=learner.recent_loss,
        )
    )
