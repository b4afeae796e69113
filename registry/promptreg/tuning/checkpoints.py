"""Checkpoints: what a run needs to go on as if it had never stopped, in one file.

The file is safetensors: parameters, the optimiser's moments, the best prompt so far and the early snapshot,
with what is no tensor as JSON beside them. It is replaced whole or not at all, so a run that is killed at any
moment leaves its last checkpoint. The examples' order is a function of the seed and the step, and nothing
else draws random numbers after the start, so the step stands for the generators' states too.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from promptreg.errors import ConflictError, TuningError
from promptreg.tuning.learners import Learner, Look, Outcome

__all__ = ["Checkpoints"]

_FORMAT = "promptreg.checkpoint/1"
_PARAMETER, _BEST, _MOMENT, _SNAPSHOT = "parameter.", "best.", "optimizer.", "snapshot"


class Checkpoints:
    """The checkpoints of some runs, a file each in one directory.

    Attributes:
        directory: The directory; made when the first is written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, key: str) -> Path:
        """Return the file of the run ``key``: a digest of everything that its result depends on."""
        return self.directory / f"{key}.safetensors"

    @contextmanager
    def held(self, key: str) -> Iterator[None]:
        """Keep the run ``key`` for this process alone.

        Raises:
            ConflictError: Another process trains it.
            TuningError: The directory cannot be written to.
        """
        try:
            import fcntl
        except ImportError:  # pragma: no cover - not on Windows
            yield
            return
        lock = self.directory / f"{key}.lock"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            file = lock.open("w")
        except OSError as error:
            raise _unwritable(lock, error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConflictError(
                    "another process trains this very run",
                    "it holds the run's checkpoint",
                    "wait for it, or change the seed",
                ) from error
            yield
            with suppress(OSError):  # whatever became of the directory meanwhile
                lock.unlink()

    def save(self, key: str, learner: Learner) -> None:
        """Write down where ``learner`` stands.

        Raises:
            TuningError: The file cannot be written (the disk is full, say); the one before it stands.
        """
        path = self.path(key)
        data = save(_tensors(learner), {"run": json.dumps(_facts(learner))})
        # One name for all of a run's: what a killed process left half written is written over.
        part = path.with_suffix(".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise _unwritable(path, error) from error

    def load(self, key: str, learner: Learner) -> bool:
        """Let ``learner`` stand where the run's last checkpoint says; return whether there is one.

        Raises:
            TuningError: The file is damaged.
        """
        path = self.path(key)
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {}).get("run", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            _restore(learner, facts, tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise TuningError(
                f"the checkpoint {path} cannot be read ({error})",
                "delete it to start the run anew (--fresh)",
            ) from error
        return True

    def remove(self, key: str) -> None:
        """Forget the run ``key``.

        Raises:
            TuningError: Its file cannot be removed.
        """
        path = self.path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise TuningError(
                f"the checkpoint {path} cannot be removed ({error.strerror or error})", "remove it"
            ) from error


def _unwritable(path: Path, error: OSError) -> TuningError:
    return TuningError(
        f"the checkpoint {path} cannot be written ({error.strerror or error})",
        "make room, or name another directory with --checkpoints",
    )


def _tensors(learner: Learner) -> dict[str, Tensor]:
    found = {_PARAMETER + name: each.detach() for name, each in learner.parameters.items()}
    found |= {_BEST + name: each for name, each in learner.best.items()}
    for number, moments in learner.optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            if isinstance(value, Tensor):
                found[f"{_MOMENT}{number}.{name}"] = value
    if learner.snapshot is not None:
        found[_SNAPSHOT] = learner.snapshot
    return {name: each.cpu().contiguous().clone() for name, each in found.items()}


def _facts(learner: Learner) -> dict[str, Any]:
    moments = learner.optimizer.state_dict()["state"]
    return {
        "format": _FORMAT,
        "step": learner.step,
        "outcome": str(
            Outcome.RUNNING if learner.outcome is Outcome.INTERRUPTED else learner.outcome
        ),
        "looks": [asdict(look) for look in learner.looks],
        "seconds": learner.seconds,
        "first_loss": learner.first_loss,
        "losses": learner.losses,
        "optimizer": {
            str(number): {k: v for k, v in own.items() if not isinstance(v, Tensor)}
            for number, own in moments.items()
        },
    }


def _restore(learner: Learner, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    if facts.get("format") != _FORMAT:
        raise ValueError(f"its format is {facts.get('format')!r}, not {_FORMAT!r}")
    with torch.no_grad():
        for name, own in learner.parameters.items():
            own.copy_(tensors[_PARAMETER + name])
    like = next(iter(learner.parameters.values()))
    learner.best = {
        name.removeprefix(_BEST): each.to(like.device)
        for name, each in tensors.items()
        if name.startswith(_BEST)
    }
    snapshot = tensors.get(_SNAPSHOT)
    learner.snapshot = None if snapshot is None else snapshot.to(like.device)
    learner.step, learner.seconds = facts["step"], facts["seconds"]
    learner.outcome = Outcome(facts["outcome"])
    learner.looks = [Look(**look) for look in facts["looks"]]
    learner.first_loss, learner.losses = facts["first_loss"], list(facts["losses"])
    state: dict[int, dict[str, Any]] = {int(n): dict(own) for n, own in facts["optimizer"].items()}
    for name, each in tensors.items():
        if name.startswith(_MOMENT):
            number, _, moment = name.removeprefix(_MOMENT).partition(".")
            state[int(number)][moment] = each
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": state, "param_groups": groups})
