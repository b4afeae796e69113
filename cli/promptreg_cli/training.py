"""What ``tune`` and ``sweep`` share: reading, loading, training under the person's eyes, registering."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from promptreg_cli import at_hand, output
from promptreg_cli.attaching import choose_device
from promptreg_cli.watching import Watching

if TYPE_CHECKING:
    from promptreg.bases import BaseModel
    from promptreg.prompts import PulledPrompt, Scalar
    from promptreg.pushing import Pushed
    from promptreg.registry import Registry
    from promptreg.results import Result
    from promptreg.tuning import Examples, Plan, Recipe, Score, Tuned

__all__ = ["Compared", "Session"]

_INTERRUPTED = 130  # as a shell counts a process that Ctrl-C ended
_BEST = "best"


class Session:
    """One call of a command that trains: its options, and what they come to.

    What is wrong with the data is said before the base model is loaded, which takes longer.
    """

    def __init__(
        self,
        registry: "Registry",
        options: Mapping[str, Any],
        *,
        axes: Sequence[str] = (),
        stop_hopeless: bool = False,
        whole_model: bool = False,
    ) -> None:
        from promptreg.names import check_task
        from promptreg.pushing import check_template
        from promptreg.tuning import read_examples

        self._registry = registry
        self._options = options
        self._stop_hopeless = stop_hopeless
        self._whole_model = whole_model
        self._length_given = options["length"] is not None or "num_virtual_tokens" in axes
        check_task(options["task"])
        check_template(_template(options["template"]))
        sets = {name: options[name] for name in ("train", "dev", "test")}
        self._sets: dict[str, Examples] = {
            name: read_examples(path) for name, path in sets.items() if path is not None
        }
        self._parents: dict[str, PulledPrompt] = {}
        self._ended: list[Path] = []

    def recipe(self) -> "Recipe":
        """Return how to train, as the options say."""
        from promptreg.prompts import Placement
        from promptreg.tuning import Optimizer, Recipe, Schedule

        given = self._options
        return Recipe(
            num_virtual_tokens=given["length"] or Recipe().num_virtual_tokens,
            init="auto" if given["init"] == _BEST else given["init"],
            placement=Placement(given["placement"]),
            optimizer=Optimizer(given["optimizer"]),
            learning_rate=given["lr"],
            head_learning_rate=given["head_lr"],
            weight_decay=given["weight_decay"],
            schedule=None if given["schedule"] is None else Schedule(given["schedule"]),
            warmup=given["warmup"],
            batch_size=given["batch_size"],
            steps=given["steps"],
            evaluate_every=given["eval_every"],
            patience=given["patience"],
            clip=given["clip"],
            seed=given["seed"],
            snapshot_step=given["snapshot_step"],
        )

    def train(self, recipes: "Sequence[Recipe]") -> "list[Tuned]":
        """Train a prompt for each recipe, and show how it goes on; exit if a person stops it."""
        from promptreg.errors import IncompatibleModelError
        from promptreg.tuning import Outcome, tune

        recipes = [self._with_parent(recipe) for recipe in recipes]
        plan = self._plan()
        with _stoppable() as stop, Watching(len(recipes)) as watching:
            try:
                done = tune(
                    self._model,
                    recipes,
                    plan,
                    tokenizer=self._tokenizer,
                    watcher=watching,
                    stop=stop,
                )
            except IncompatibleModelError as error:
                raise self._rounded(error) from error
        stopped = [tuned for tuned in done if tuned.outcome is Outcome.INTERRUPTED]
        if stopped:
            steps = ", ".join(f"{tuned.name} at step {tuned.steps}" for tuned in stopped)
            output.note(f"stopped {steps}; the same command goes on from there")
            raise click.exceptions.Exit(_INTERRUPTED)
        self._ended += [tuned.checkpoint for tuned in done if tuned.checkpoint is not None]
        return done

    def from_best(self, recipe: "Recipe") -> "Recipe":
        """Return the recipe that starts from the closest registered prompt of another task on this base model.

        What a task is close to shows in a prompt for it after a few steps (SPoT): one is trained so far first.
        """
        from dataclasses import replace

        from promptreg.artifacts.arrays import to_array
        from promptreg.errors import BaseModelNotFoundError
        from promptreg.layouts import TASK_EMBEDDING
        from promptreg.tuning import similar_to, tune

        output.note(
            f"training {recipe.snapshot_step} steps to see which registered prompt is closest"
        )
        plan = replace(self._plan(), checkpoints=None, test=None)
        with Watching(1) as watching:
            scout = replace(recipe, steps=max(recipe.steps, recipe.snapshot_step + 1), patience=0)
            (tuned,) = tune(
                self._model,
                [scout],
                plan,
                tokenizer=self._tokenizer,
                watcher=watching,
                stop=lambda: watching.taken >= recipe.snapshot_step,
            )
        if tuned.prompt is None or TASK_EMBEDDING not in tuned.prompt.tensors:
            raise click.ClickException(
                "the first steps diverged; lower the learning rate with --lr"
            )
        embedding = to_array(tuned.prompt.tensors[TASK_EMBEDDING])
        try:
            with output.progress("comparing", count=True) as advance:
                found = similar_to(
                    self._registry,
                    embedding,
                    base=str(self._base.fingerprint),
                    exclude_tasks=[self._options["task"]],
                    progress=advance,
                )
        except BaseModelNotFoundError:
            output.note("no prompt is registered for this base model; the prompt starts as usual")
            return recipe
        output.note(found.verdict)
        if found.nearest is None:
            output.note("the prompt starts as usual")
            return recipe
        version = found.nearest.version
        if self._length_given and version.num_virtual_tokens != recipe.num_virtual_tokens:
            output.note(f"its length is {version.num_virtual_tokens}, and so is this prompt's")
        output.note(f"the prompt starts from {version.ref}")
        return replace(
            recipe, init=f"prompt:{version.ref}", num_virtual_tokens=version.num_virtual_tokens
        )

    def compare(self, method: str, shots: int) -> "Compared":
        """Run a method that makes no prompt, and record what it scores."""
        from promptreg.tuning import as_metrics, prompt_design

        scores: dict[str, Mapping[str, Score]]
        if method == "prompt-design":
            plan = self._plan()
            with Watching(1) as watching:
                scores = prompt_design(
                    self._model,
                    plan,
                    shots=shots,
                    seed=self._options["seed"],
                    tokenizer=self._tokenizer,
                    watcher=watching,
                )
            facts: dict[str, Scalar] = {"shots": shots, "max_length": plan.max_length}
            facts |= {"seed": self._options["seed"]} if shots else {}
            facts |= {} if plan.template is None else {"template": plan.template}
            facts |= {f"{name}_data": str(each.digest) for name, each in self._sets.items()}
            metrics: dict[str, Scalar] = {}
            for name, each in scores.items():
                metrics |= as_metrics(each, prefix=f"{name}_")
        else:
            (tuned,) = self.train([self.recipe()])
            self._check(tuned)
            scores, facts, metrics = {**tuned.scores}, {**tuned.hyperparameters}, tuned.metrics
        recorded = self._registry.record_result(
            task=self._options["task"],
            base=at_hand.name(self._registry, self._base),
            method=method,
            hyperparameters=facts,
            metrics=metrics,
        )
        self.forget()
        return Compared(result=recorded, scores=scores)

    def push(self, tuned: "Tuned", *, aliases: Sequence[str] = ()) -> "Pushed":
        """Register a run's prompt."""
        from promptreg.tuning import push_tuned

        self._check(tuned)
        canary: bool = self._options["canary"]
        with output.working("recording the canary (--no-canary: not)" if canary else "registering"):
            return push_tuned(
                self._registry,
                tuned,
                task=self._options["task"],
                base=at_hand.name(self._registry, self._base),
                model=self._model if canary else None,
                aliases=aliases,
                note=self._options["note"],
            )

    def _check(self, tuned: "Tuned") -> None:
        """Return if a run came to something; else forget it, because the same steps would lead there again."""
        from promptreg.errors import TuningError
        from promptreg.tuning import check_learned

        try:
            check_learned(tuned)
        except TuningError:
            if tuned.checkpoint is not None:
                with suppress(OSError):
                    tuned.checkpoint.unlink()
            raise

    def forget(self) -> None:
        """Remove the checkpoints of all runs that came to their ends."""
        for path in self._ended:
            with suppress(OSError):
                path.unlink()

    def push_if_learned(self, tuned: "Tuned") -> str | None:
        """Register a run's prompt if it is good; else say why not."""
        from promptreg.errors import TuningError
        from promptreg.tuning import Outcome

        try:
            return self.push(tuned).version.ref
        except TuningError as error:
            if tuned.outcome is not Outcome.HOPELESS:  # which was said when it was stopped
                output.note(f"not registered: {error}")
            return None

    def _plan(self) -> "Plan":
        from promptreg.settings import data_directory
        from promptreg.tuning import DEFAULT_TEMPLATE, Plan

        given = self._options
        template = _template(given["template"])
        if (
            template is None
            and self._model.can_generate()
            and not self._model.config.is_encoder_decoder
        ):
            template = DEFAULT_TEMPLATE
        return Plan(
            base=self._base,
            train=self._sets["train"],
            dev=self._sets["dev"],
            test=self._sets.get("test"),
            template=None if template == "{text}" else template,
            labels=given["labels"],
            max_length=given["max_length"],
            mixed_precision=self._mixed,
            recompute=given["recompute"],
            whole_model=self._whole_model,
            stop_hopeless=self._stop_hopeless,
            parents={ref: pulled.prompt for ref, pulled in self._parents.items()},
            checkpoints=given["checkpoints"] or data_directory() / "runs",
            fresh=given["fresh"],
        )

    def _with_parent(self, recipe: "Recipe") -> "Recipe":
        """Return the recipe with the version pinned that it starts from, after pulling it."""
        from dataclasses import replace

        if recipe.parent is None:
            return recipe
        pulled = at_hand.pull_for(self._registry, recipe.parent, str(self._base.fingerprint))
        if pulled.base.fingerprint != self._base.fingerprint:
            raise click.ClickException(
                f"{pulled.version.ref} is for the base model {pulled.base}, and this is another; "
                "start from a prompt for this one"
            )
        self._parents[pulled.version.ref] = pulled
        length = (
            recipe.num_virtual_tokens if self._length_given else pulled.prompt.num_virtual_tokens
        )
        return replace(recipe, init=f"prompt:{pulled.version.ref}", num_virtual_tokens=length)

    def _rounded(self, error: Exception) -> Exception:
        """Return what to say where the loaded weights are not those in the directory."""
        dtype = self._options["dtype"]
        if dtype == "auto":
            return error
        return click.ClickException(
            f"--dtype {dtype} rounds the base model's weights, and a prompt would be trained on another model "
            "than it is registered on; leave --dtype out, and use --precision mixed to compute in bfloat16"
        )

    @property
    def _mixed(self) -> bool:
        import torch

        chosen: str = self._options["precision"]
        if chosen != "auto":
            return chosen == "mixed"
        on_gpu = self._model.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return on_gpu and bool(self._model.dtype == torch.float32)

    @cached_property
    def _directory(self) -> Path:
        directory: Path = self._options["base"]
        return directory

    @cached_property
    def _base(self) -> "BaseModel":
        return at_hand.fingerprint(self._directory)

    @cached_property
    def _model(self) -> Any:
        at_hand.quiet_transformers()
        from promptreg.models import load_to_train

        train = self._sets["train"]
        classes = len(self._options["labels"] or train.labels) if train.labelled else None
        with output.working(f"loading {self._directory.name}"):
            return load_to_train(
                self._directory,
                classes=classes,
                device=choose_device(self._options["device"]),
                dtype=self._dtype,
            )

    @property
    def _dtype(self) -> str:
        chosen: str = self._options["dtype"]
        # Steps of model tuning are too small for bfloat16 weights to change by.
        return "float32" if self._whole_model and chosen == "auto" else chosen

    @cached_property
    def _tokenizer(self) -> Any:
        from promptreg.models.loading import find_tokenizer

        return find_tokenizer(self._model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What a method without a prompt scored.

    Attributes:
        result: What was recorded.
        scores: The scores on each set.
    """

    result: "Result"
    scores: "Mapping[str, Mapping[str, Score]]"


def _template(given: str | None) -> str | None:
    """Return a template as it is written on a command line, with its new lines."""
    return None if given is None else given.replace("\\n", "\n")


class _Stop:
    """Whether a person asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, *_signal: object) -> bool:
        return self.asked


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    """Let the first Ctrl-C (or SIGTERM) ask to stop; a second one stops at once."""
    stop = _Stop()
    before: dict[signal.Signals, Any] = {}

    def ask(_number: int, _frame: object) -> None:
        stop.asked = True
        output.note("stopping after this step (once more: at once)")
        for name, handler in before.items():
            signal.signal(name, handler)

    for name in (signal.SIGINT, signal.SIGTERM):
        before[name] = signal.signal(name, ask)
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
