"""Tuning: from examples and a frozen base model to trained prompts, one or many at once.

P is the number of virtual tokens, H the base model's embedding width.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from promptreg.errors import InvalidValueError, TuningError
from promptreg.layouts import PROMPT_EMBEDDINGS
from promptreg.models import attach
from promptreg.models.anatomy import Kind, examine
from promptreg.models.virtual import check_takes_embeddings
from promptreg.prompts import Scalar, TaskType
from promptreg.tuning.baselines import MODEL_LEARNING_RATE, unfrozen, whole_model
from promptreg.tuning.batching import Order
from promptreg.tuning.checkpoints import Checkpoints
from promptreg.tuning.initialising import embedding_size, initial_embeddings
from promptreg.tuning.learners import Learner, Outcome
from promptreg.tuning.looking import measure, question
from promptreg.tuning.plans import Plan, cut_plan, read_plan
from promptreg.tuning.proving import new_weights
from promptreg.tuning.recipes import Recipe
from promptreg.tuning.rows import make_rows
from promptreg.tuning.training import Training
from promptreg.tuning.tuned import Tuned, soft_prompt
from promptreg.tuning.watching import Unwatched, Watcher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from promptreg.models import PromptedModel
    from promptreg.tuning.rows import Row
    from promptreg.tuning.scores import Score

__all__ = ["tune"]

_HEAD_DEVIATION = 0.02


def tune(
    model: Any,
    recipes: Sequence[Recipe],
    plan: Plan,
    *,
    tokenizer: "PreTrainedTokenizerBase",
    watcher: Watcher | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Tuned]:
    """Train a prompt for each recipe, all of them together on the one frozen base model.

    The base model is frozen while it lasts and as it was afterwards. A prompt gets, up to rounding, what it
    would get alone, whatever others are trained beside it.

    Args:
        model: The base model, as transformers loads it. A sequence classifier's new head is trained with each
            prompt.
        recipes: How each is trained; no two alike.
        plan: What they have in common.
        tokenizer: The base model's tokenizer.
        watcher: What is told how it goes on.
        stop: Asked before each step whether to stop; the runs are then ``interrupted`` and can go on.

    Returns:
        What came of each recipe, in their order.

    Raises:
        InvalidDataError: The examples cannot be learned from: one class alone, or labels that are not in
            training.
        InvalidValueError: The labels cannot be told apart by their tokens, or two recipes are alike.
        IncompatibleModelError: The model has other weights than the plan's base model.
        TuningError: There is no room for texts beside the prompt, no memory for a row, nothing to start from,
            or a checkpoint cannot be read.
        ConflictError: Another process trains one of these runs.
        AttachError: The base model has no place for prompts of this kind.
    """
    watcher = Unwatched() if watcher is None else watcher
    _check_recipes(recipes, plan)
    new = new_weights(examine(model), plan.base)
    if plan.recompute:
        from promptreg.tuning.recomputing import recomputing

        model = recomputing(model)
    with attach(model, policy="unchecked", tokenizer=tokenizer) as prompted, ExitStack() as held:
        if plan.whole_model:
            held.enter_context(unfrozen(prompted.model))
        return _Tuning(prompted, plan, recipes, watcher, new).run(held, stop)


class _Tuning:
    """One call of ``tune``."""

    def __init__(
        self,
        prompted: "PromptedModel",
        plan: Plan,
        recipes: Sequence[Recipe],
        watcher: Watcher,
        new: frozenset[str],
    ) -> None:
        self._prompted = prompted
        self._recipes = recipes
        self._watcher = watcher
        if not plan.whole_model:
            check_takes_embeddings(prompted.anatomy)
        self._new = new
        self._reading = read_plan(prompted, plan)
        longest = max(recipe.num_virtual_tokens for recipe in recipes)
        self._plan = cut_plan(prompted, plan, self._reading, longest=longest, watcher=watcher)
        self._checkpoints = None if plan.checkpoints is None else Checkpoints(plan.checkpoints)
        self._size = embedding_size(prompted.anatomy)
        self._keys: dict[str, str] = {}

    def run(self, held: ExitStack, stop: Callable[[], bool]) -> list[Tuned]:
        """Train them all."""
        plan = self._plan
        rows = make_rows(plan.train, self._reading)
        learners = [
            self._learner(f"run-{number}", recipe, rows)
            for number, recipe in enumerate(self._recipes, start=1)
        ]
        self._keys = {learner.name: self._key(learner.recipe) for learner in learners}
        if self._checkpoints is not None:
            for learner in learners:
                held.enter_context(self._checkpoints.held(self._keys[learner.name]))
                self._resume(self._checkpoints, self._keys[learner.name], learner)

        Training(
            prompted=self._prompted,
            learners=learners,
            dev=plan.dev,
            reading=self._reading,
            columns=plan.columns,
            mixed_precision=plan.mixed_precision,
            stop_hopeless=plan.stop_hopeless,
            watcher=self._watcher,
            save=lambda learner: self._save(self._keys[learner.name], learner),
            stop=stop,
        ).run()
        return [self._finish(learner) for learner in learners]

    def _learner(self, name: str, recipe: Recipe, rows: "Sequence[Row]") -> Learner:
        order = Order([row.width for row in rows], batch_size=recipe.batch_size, seed=recipe.seed)
        head = self._new_head(recipe)
        if self._plan.whole_model:
            parameters, scale = whole_model(self._prompted.model, head), 1.0
            if recipe.learning_rate is None:
                recipe = replace(recipe, learning_rate=MODEL_LEARNING_RATE)
        else:
            embeddings = initial_embeddings(
                recipe,
                self._prompted.anatomy,
                self._reading.tokenizer,
                labels=self._reading.labels,
                texts=(row.ids for row in rows),
                parent=self._plan.parents.get(recipe.parent or ""),
            )
            parameters, scale = {PROMPT_EMBEDDINGS: embeddings, **head}, self._size
        return Learner(
            name=name, recipe=recipe, rows=rows, order=order, parameters=parameters, scale=scale
        )

    def _new_head(self, recipe: Recipe) -> dict[str, torch.Tensor]:
        """Return fresh values for those of a classifier's weights that the base model's files do not have."""
        generator = torch.Generator().manual_seed(recipe.seed)
        found = {}
        for name, parameter in self._prompted.model.named_parameters():
            if name not in self._new:
                continue
            fresh = torch.zeros(parameter.shape)
            if parameter.ndim > 1:
                fresh.normal_(0, _HEAD_DEVIATION, generator=generator)
            found[name] = fresh.to(parameter.device)
        return found

    def _key(self, recipe: Recipe) -> str:
        """Return a digest of everything that the run's result depends on."""
        plan = self._plan
        parent = plan.parents.get(recipe.parent or "")
        facts = {
            **recipe.hyperparameters,
            **self._facts(),
            "init": recipe.init,
            "tokens": recipe.num_virtual_tokens,
            "placement": recipe.placement,
            "base": str(plan.base.fingerprint),
            "template": plan.template,
            "labels": self._reading.labels,
            "dtype": str(self._prompted.dtype),
            "whole_model": plan.whole_model,
            "parent": parent and hashlib.sha256(parent.tensors[PROMPT_EMBEDDINGS].data).hexdigest(),
        }
        facts.pop("test_data", None)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def _facts(self) -> dict[str, Scalar]:
        """Return the hyperparameters that all runs have in common."""
        plan = self._plan
        sets = {"train_data": plan.train, "dev_data": plan.dev, "test_data": plan.test}
        return {
            **{name: str(each.digest) for name, each in sets.items() if each is not None},
            "train_examples": len(plan.train),
            "max_length": plan.max_length,
            "precision": "mixed" if plan.mixed_precision else "full",
            "device": self._prompted.device.type,
        }

    def _resume(self, checkpoints: Checkpoints, key: str, learner: Learner) -> None:
        if self._plan.fresh:
            checkpoints.remove(key)
        elif checkpoints.load(key, learner):
            if learner.outcome is Outcome.HOPELESS and not self._plan.stop_hopeless:
                learner.outcome = Outcome.RUNNING
            self._watcher.noted(
                f"{learner.name} goes on from its checkpoint at step {learner.step}"
            )

    def _save(self, key: str, learner: Learner) -> None:
        if self._checkpoints is None:
            return
        try:
            self._checkpoints.save(key, learner)
        except TuningError as error:
            # Hours of training are worth more than the checkpoint.
            self._watcher.noted(f"{error}; training goes on without")

    def _finish(self, learner: Learner) -> Tuned:
        """Return what came of a run; one that finished is measured once more, at its best."""
        plan, reading = self._plan, self._reading
        facts = {**learner.recipe.hyperparameters, **self._facts()}
        prompt = soft_prompt(
            learner,
            task_type=_task_type(self._prompted),
            template=reading.template,
            labels=reading.labels,
            hyperparameters=facts,
        )
        scores: dict[str, Mapping[str, Score]] = {}
        if learner.outcome is Outcome.FINISHED:
            with torch.no_grad():
                for name, each in learner.parameters.items():
                    each.copy_(learner.best[name])
                for name, examples in {"dev": plan.dev, "test": plan.test}.items():
                    if examples is not None:
                        asked = question(self._prompted, learner, reading)
                        scores[name] = measure(self._prompted, asked, examples, reading)
        return Tuned(
            name=learner.name,
            recipe=learner.recipe,
            outcome=learner.outcome,
            prompt=prompt,
            looks=tuple(learner.looks),
            steps=learner.step,
            seconds=learner.seconds,
            scores=scores,
            hyperparameters=facts,
            checkpoint=None
            if self._checkpoints is None
            else self._checkpoints.path(self._keys[learner.name]),
        )


def _check_recipes(recipes: Sequence[Recipe], plan: Plan) -> None:
    if not recipes:
        raise TuningError("there is no recipe", "pass one for each prompt")
    if plan.whole_model and len(recipes) > 1:
        raise TuningError(
            f"{len(recipes)} recipes would train the same weights",
            "tune the model with one at a time",
        )
    used = [recipe.used for recipe in recipes]
    for at, recipe in enumerate(recipes):
        if used[at] in used[:at]:
            reason = "it is there twice, and would make the same prompt"
            raise InvalidValueError("the recipe", str(recipe), reason, "leave one out")


def _task_type(prompted: "PromptedModel") -> TaskType:
    if prompted.anatomy.pooled:
        return TaskType.SEQ_CLS
    if prompted.anatomy.kind is Kind.ENCODER_DECODER:
        return TaskType.SEQ_2_SEQ_LM
    return TaskType.CAUSAL_LM
