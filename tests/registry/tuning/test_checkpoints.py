"""A run goes on from its last checkpoint as if it had never stopped, and a checkpoint is whole or not there."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from promptreg.errors import ConflictError, TuningError
from promptreg.models import from_files, load_to_train
from promptreg.tuning import Optimizer, Outcome, Plan, Recipe, Tuned, read_examples, tune
from promptreg.tuning.checkpoints import Checkpoints
from small_bases import Kind

RECIPE = Recipe(num_virtual_tokens=5, steps=30, evaluate_every=10, snapshot_step=5, batch_size=8)
RECIPES = (RECIPE, Recipe(num_virtual_tokens=3, steps=24, optimizer=Optimizer.ADAFACTOR, seed=4))


class Steps:
    """A watcher that counts, and asks to stop after so many."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self.steps = 0
        self.notes: list[str] = []

    def stepped(self, _learners: object) -> None:
        self.steps += 1

    def looked(self, _learner: object) -> None:
        pass

    def noted(self, text: str) -> None:
        self.notes.append(text)

    def __call__(self) -> bool:
        return self.most is not None and self.steps >= self.most


def train(
    base: Path,
    data: dict[str, Path],
    checkpoints: Path | None,
    *,
    steps: Steps | None = None,
    recipes: tuple[Recipe, ...] = RECIPES,
    **changes: Any,
) -> list[Tuned]:
    steps = steps or Steps()
    plan = Plan(
        base=from_files(base),
        train=read_examples(data["train"]),
        dev=read_examples(data["dev"]),
        template="{text} Answer:",
        checkpoints=checkpoints,
        **changes,
    )
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = load_to_train(base, classes=2)
    return tune(model, recipes, plan, tokenizer=tokenizer, watcher=steps, stop=steps)


@pytest.mark.parametrize("stopped_at", [3, 10, 26])
def test_a_run_that_goes_on_ends_as_one_that_never_stopped(
    stopped_at: int, bases: dict[Kind, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    base = bases["decoder"]
    whole = train(base, data, None)
    first = train(base, data, tmp_path / "runs", steps=Steps(stopped_at))
    assert first[0].outcome is Outcome.INTERRUPTED
    steps = Steps()
    again = train(base, data, tmp_path / "runs", steps=steps)
    assert steps.steps == 30 - stopped_at
    for one, other in zip(whole, again, strict=True):
        assert one.prompt is not None
        assert other.prompt is not None
        assert one.looks == other.looks
        if stopped_at < 24:  # else the other ran alone for a while, in batches of another shape
            assert one.prompt.tensors == other.prompt.tensors


def test_a_killed_process_leaves_a_checkpoint_to_go_on_from(
    bases: dict[Kind, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    base = bases["decoder"]
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from registry.tuning.test_checkpoints import RECIPE, Steps, train
class Killed(Steps):
    def stepped(self, learners):
        super().stepped(learners)
        if self.steps == 17:
            os.kill(os.getpid(), signal.SIGKILL)
data = {{name: Path(path) for name, path in { ({n: str(p) for n, p in data.items()})!r}.items()}}
train(Path({str(base)!r}), data, Path({str(tmp_path / "runs")!r}), steps=Killed(), recipes=(RECIPE,))
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    (left,) = (tmp_path / "runs").glob("*.safetensors")
    assert left.stat().st_size
    steps = Steps()
    (again,) = train(base, data, tmp_path / "runs", steps=steps, recipes=(RECIPE,))
    assert steps.notes == ["run-1 goes on from its checkpoint at step 10"]
    (whole,) = train(base, data, None, recipes=(RECIPE,))
    assert again.prompt is not None
    assert whole.prompt is not None
    assert again.prompt.tensors == whole.prompt.tensors


def test_a_fresh_run_forgets_the_checkpoint(
    bases: dict[Kind, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    base = bases["decoder"]
    train(base, data, tmp_path, steps=Steps(5), recipes=(RECIPE,))
    steps = Steps()
    train(base, data, tmp_path, steps=steps, recipes=(RECIPE,), fresh=True)
    assert steps.steps == 30


def test_another_recipe_is_another_run(
    bases: dict[Kind, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    base = bases["decoder"]
    train(base, data, tmp_path, steps=Steps(5), recipes=(RECIPE,))
    steps = Steps(1)
    train(base, data, tmp_path, steps=steps, recipes=(RECIPES[1],))
    assert not steps.notes


def test_a_damaged_checkpoint_is_refused(
    bases: dict[Kind, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    base = bases["decoder"]
    train(base, data, tmp_path, steps=Steps(5), recipes=(RECIPE,))
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TuningError, match=r"cannot be read .*; delete it"):
        train(base, data, tmp_path, recipes=(RECIPE,))


def test_two_processes_do_not_train_one_run(tmp_path: Path) -> None:
    with Checkpoints(tmp_path).held("a"):
        code = f"""
from pathlib import Path
from promptreg.tuning.checkpoints import Checkpoints
with Checkpoints(Path({str(tmp_path)!r})).held("a"): pass
"""
        found = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True, text=True
        )
    assert ConflictError.__name__ in found.stderr
    assert "another process trains this very run" in found.stderr
    with Checkpoints(tmp_path).held("a"):
        pass


def test_a_full_disk_costs_the_checkpoint_not_the_run(
    bases: dict[Kind, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    """The files of the process may not grow past a few bytes, which fails as a full disk does."""
    base = bases["decoder"]
    script = f"""
import json, resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from registry.tuning.test_checkpoints import RECIPE, Steps, train
data = {{name: Path(path) for name, path in { ({n: str(p) for n, p in data.items()})!r}.items()}}
train(Path({str(base)!r}), data, Path({str(tmp_path / "runs")!r}), steps=Steps(5), recipes=(RECIPE,))
steps = Steps()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
(tuned,) = train(
    Path({str(base)!r}), data, Path({str(tmp_path / "runs")!r}), steps=steps, recipes=(RECIPE,)
)
print(json.dumps([tuned.outcome, steps.notes]))
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    outcome, notes = json.loads(run.stdout)
    assert outcome == "finished"
    assert notes[0] == "run-1 goes on from its checkpoint at step 5"
    assert all("cannot be written (File too large)" in note for note in notes[1:])
    assert "training goes on without" in notes[-1]
    # The checkpoint from before stands, whole, and no half of another lies beside it.
    (left,) = (tmp_path / "runs").iterdir()
    steps = Steps(1)
    train(base, data, tmp_path / "runs", steps=steps, recipes=(RECIPE,))
    assert steps.notes == ["run-1 goes on from its checkpoint at step 5"]
    assert left.suffix == ".safetensors"


def test_memory_that_runs_out_halves_the_passes(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    """In a process that may take little more memory than it has once the base model is loaded."""
    base = bases["decoder"]
    script = f"""
import json, resource, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from dataclasses import replace
from pathlib import Path
import torch
from registry.tuning.test_checkpoints import RECIPE, Steps, train
data = {{name: Path(path) for name, path in { ({n: str(p) for n, p in data.items()})!r}.items()}}
large = replace(RECIPE, batch_size=300, num_virtual_tokens=50, steps=2)
train(Path({str(base)!r}), data, None, recipes=(replace(RECIPE, steps=1),))
taken = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (taken + 48 * 2**20, resource.RLIM_INFINITY))
steps = Steps()
(tuned,) = train(Path({str(base)!r}), data, None, recipes=(large,), steps=steps, columns=16_384)
print(json.dumps([tuned.outcome, steps.notes]))
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    outcome, notes = json.loads(run.stdout)
    assert outcome == "finished"
    assert "memory ran out: batches now go through the model 8,192 tokens at a time" in notes[0]


def test_values_survive_the_file(
    bases: dict[Kind, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    base = bases["encoder"]
    first = train(base, data, tmp_path, steps=Steps(12), recipes=(RECIPE,))
    again = train(base, data, tmp_path, steps=Steps(0), recipes=(RECIPE,))
    assert first[0].looks == again[0].looks
    assert first[0].steps == again[0].steps == 12
    assert first[0].prompt == again[0].prompt
    assert torch.is_grad_enabled()


def test_a_directory_that_goes_away_costs_nothing_but_the_checkpoint(
    bases: dict[Kind, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"

    class Removing(Steps):
        def stepped(self, learners: object) -> None:
            super().stepped(learners)
            if self.steps == 5:
                shutil.rmtree(runs)
                runs.touch()

    steps = Removing()
    (tuned,) = train(bases["decoder"], data, runs, steps=steps, recipes=(RECIPE,))
    assert tuned.outcome is Outcome.FINISHED
    assert "training goes on without" in steps.notes[-1]


def test_what_was_hopeless_among_others_may_go_on_alone(
    bases: dict[Kind, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    base = bases["decoder"]
    good = replace(RECIPE, steps=200, evaluate_every=20)
    poor = replace(good, learning_rate=1e-7)
    beside = (good, replace(good, seed=1), poor)
    found = train(base, data, tmp_path, recipes=beside, stop_hopeless=True)
    assert found[2].outcome is Outcome.HOPELESS
    (alone,) = train(base, data, tmp_path, recipes=(poor,))
    assert alone.outcome is Outcome.FINISHED
    assert alone.steps > found[2].steps
