"""From examples to a registered prompt with one command, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli_shell import Shell
from small_bases import lines, make_base

WAY = 2
QUICK = ("--length", "5", "--steps", "60", "--eval-every", "30", "--snapshot-step", "20")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base("decoder", tmp_path_factory.mktemp("bases") / "small")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    words = []
    for name, count, seed in (("train", 200, 1), ("dev", 40, 2), ("test", 40, 3)):
        words += [f"--{name}", str(write(tmp_path / f"{name}.jsonl", lines(WAY, count, seed)))]
    return words


@pytest.fixture
def tune(decoder: Path, data: list[str]) -> list[str]:
    """The words of a command that trains a prompt."""
    return ["tune", "--base", str(decoder), "--task", "small", *data, *QUICK]


def test_one_command_trains_and_registers(shell: Shell, tune: list[str]) -> None:
    found = shell(*tune, "--alias", "prod", "--note", "a first try")
    assert "pushed small@1" in found.stdout
    assert "test_accuracy" in found.stdout
    # Where there is no terminal, a line a look.
    assert "step 30/60  loss" in found.stderr
    (version,) = shell.json("show", "small@prod")
    assert version["method"] == "prompt-tuning"
    assert version["init"] == "labels"
    assert version["canary"]
    assert version["note"] == "a first try"
    metrics = version["metrics"]
    assert metrics["test_accuracy_low"] <= metrics["test_accuracy"] <= metrics["test_accuracy_high"]
    assert metrics["trained_steps"] == 60
    assert [pair.split(":")[0] for pair in metrics["dev_curve"].split()] == ["0", "30", "60"]
    facts = version["hyperparameters"]
    assert facts["optimizer"] == "adamw"
    assert facts["seed"] == 0
    assert facts["train_data"].startswith("sha256:")
    assert facts["test_data"] != facts["dev_data"]
    # Nothing is left of the run but what is registered.
    assert not list((shell.home / "runs").iterdir())


def test_the_same_command_again_finds_the_version(shell: Shell, tune: list[str]) -> None:
    shell(*tune)
    assert "found small@1" in shell(*tune).stdout


def test_the_trained_prompt_answers(shell: Shell, tune: list[str], decoder: Path) -> None:
    shell(*tune, "--steps", "200")
    test = tune[tune.index("--test") + 1]
    (found,) = shell.json("eval", "small", "--base", decoder, "--data", test)
    (version,) = shell.json("show", "small")
    assert found["metrics"]["accuracy"]["value"] == version["metrics"]["test_accuracy"] > 0.9


def test_a_run_as_json(shell: Shell, tune: list[str]) -> None:
    (run,) = shell.json(*tune)
    assert run["ref"] == "small@1"
    assert run["outcome"] == "finished"
    assert run["tokens"] == 5


def test_a_prompt_starts_from_another_and_remembers_it(shell: Shell, tune: list[str]) -> None:
    shell(*tune, "--steps", "10", "--eval-every", "5", "--alias", "prod")
    child = [*tune, "--init", "prompt:small@prod", "--seed", "1"]
    del child[child.index("--length") : child.index("--length") + 2]
    shell(*child)
    (version,) = shell.json("show", "small@2")
    assert (version["parent"], version["init"], version["tokens"]) == (
        "small@1",
        "prompt:small@1",
        5,
    )


def test_the_closest_prompt_is_found_to_start_from(shell: Shell, tune: list[str]) -> None:
    other = list(tune)
    other[other.index("--task") + 1] = "other"
    shell(*other)
    found = shell(*tune, "--init", "best")
    assert "the closest of another task is other@1" in found.stderr
    assert "the prompt starts from other@1" in found.stderr
    (version,) = shell.json("show", "small@1")
    assert version["parent"] == "other@1"


def test_without_a_registered_prompt_best_is_as_usual(shell: Shell, tune: list[str]) -> None:
    found = shell(*tune, "--init", "best")
    assert "no prompt is registered for this base model" in found.stderr
    assert shell.json("show", "small@1")[0]["init"] == "labels"


@pytest.mark.parametrize(
    ("words", "method", "more"),
    [
        (["--method", "prompt-design"], "prompt-design", {"shots": 0}),
        (["--method", "prompt-design", "--shots", "4"], "prompt-design", {"shots": 4}),
        (["--method", "model-tuning", "--lr", "0.002"], "model-tuning", {"learning_rate": 0.002}),
    ],
)
def test_baselines_are_recorded_without_a_prompt(
    words: list[str], method: str, more: dict[str, Any], shell: Shell, tune: list[str]
) -> None:
    given = list(tune)
    del given[given.index("--length") : given.index("--length") + 2]
    (found,) = shell.json(*given, *words)
    assert found["method"] == method
    assert more.items() <= found["hyperparameters"].items()
    assert found["metrics"]["test_accuracy_low"] <= found["metrics"]["test_accuracy"]
    assert not shell.json("list")


def test_a_sweep_registers_every_run_that_finishes(shell: Shell, tune: list[str]) -> None:
    words = ["sweep", *tune[1:], "--grid", "length=1,4", "--grid", "init=vocab,labels"]
    runs = shell.json(*words, "--no-stop-hopeless")
    assert [(run["tokens"], run["init"]) for run in runs] == [
        (1, "vocab"),
        (1, "labels"),
        (4, "vocab"),
        (4, "labels"),
    ]
    listed = shell.json("list", "small")
    assert {run["ref"] for run in runs if run["ref"]} == {version["ref"] for version in listed}
    assert listed


def test_a_sweep_in_groups_is_the_same_sweep(shell: Shell, tune: list[str]) -> None:
    words = ["sweep", *tune[1:], "--grid", "seed=0,1,2", "--no-canary"]
    found = shell(*words, "--at-once", "2")
    assert "runs 3 to 3 of 3" in found.stderr
    assert found.stdout.splitlines()[0].split() == [
        "REF",
        "SEED",
        "DEV",
        "TEST",
        "BEST",
        "STEP",
        "TIME",
        "OUTCOME",
    ]
    assert len(found.stdout.splitlines()) == 4


def run(words: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "promptreg_cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_person_who_stops_a_run_can_go_on(
    number: signal.Signals, shell: Shell, tune: list[str]
) -> None:
    words = [*tune, "--steps", "2000", "--eval-every", "5", "--patience", "0"]
    with run(words) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 10/"):
                break
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "stopped run-1 at step" in rest
    assert "the same command goes on from there" in rest
    assert not shell.json("list")
    (kept,) = (shell.home / "runs").glob("*.safetensors")
    assert kept.stat().st_size
    with run(words) as process:
        assert process.stderr is not None
        assert "goes on from its checkpoint at step" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.stderr.read()


def test_a_run_that_comes_to_nothing_is_not_registered(shell: Shell, tune: list[str]) -> None:
    shell(*tune, "--steps", "200")
    found = shell(*tune, "--init", "prompt:small@1", "--lr", "3000", code=1)
    assert "diverged" in found.stderr or "no better than where it started" in found.stderr
    assert [version["ref"] for version in shell.json("list")] == ["small@1"]
    assert not list((shell.home / "runs").iterdir())


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "it holds no examples"),
        (["{"], "line 1: it is no JSON"),
        (
            [{"text": "w1", "label": "low"}, {"text": "w2", "label": 3}],
            "line 2: its 'label' is a int",
        ),
        ([{"text": "w1", "label": "low"}], "the one label 'low'"),
    ],
)
def test_bad_examples_are_named_before_anything_runs(
    rows: list[Any], reason: str, shell: Shell, tune: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    words = list(tune)
    words[words.index("--train") + 1] = str(bad)
    found = shell(*words, code=1)
    assert reason in found.stderr
    assert "Traceback" not in found.stderr
    assert not shell.json("list")


def test_a_directory_without_a_model_is_refused(
    shell: Shell, tune: list[str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    words = list(tune)
    words[words.index("--base") + 1] = str(tmp_path / "empty")
    assert "Traceback" not in shell(*words, code=1).stderr


def test_a_sweep_that_is_stopped_does_not_train_its_first_group_again(
    shell: Shell, tune: list[str]
) -> None:
    words = ["sweep", *tune[1:], "--grid", "seed=0,1", "--at-once", "1", "--no-canary"]
    words += ["--steps", "400", "--eval-every", "20", "--patience", "0"]
    with run(words) as process:
        assert process.stderr is not None
        second = False
        for line in process.stderr:
            second = second or line.startswith("runs 2 to 2")
            if second and line.startswith("step 20/"):
                break
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    assert process.returncode == 130
    found = shell(*words)
    assert found.stderr.count("goes on from its checkpoint at step") == 2
    assert "goes on from its checkpoint at step 400" in found.stderr
    assert {version["ref"] for version in shell.json("list")} == {"small@1", "small@2"}
    assert not list((shell.home / "runs").iterdir())


def test_what_a_terminal_would_obey_is_written_out(
    shell: Shell, tune: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("\x1b[31mEVIL\x07" + "x" * 100_000)
    words = list(tune)
    words[words.index("--train") + 1] = str(bad)
    found = shell(*words, code=1)
    assert "\x1b" not in found.stderr
    assert "\\x1b[31mEVIL\\x07" in found.stderr
    shell(*tune, "--note", "\x1b]0;OWNED\x07", "--no-canary")
    assert "\x1b" not in shell("show", "small").stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--template", "hello"], "no one place"),
        (["--dtype", "bfloat16"], "--dtype bfloat16 rounds the base model's weights"),
        (["--method", "model-tuning", "--init", "best"], "--init is for a prompt"),
        (["--shots", "3"], "--shots is for --method prompt-design"),
        (["--method", "prompt-design", "--shots", "201"], "201 examples are to be written out"),
    ],
)
def test_what_cannot_be_is_refused(
    words: list[str], reason: str, shell: Shell, tune: list[str]
) -> None:
    given = [*tune, *words]
    if "--method" in words:
        del given[given.index("--length") : given.index("--length") + 2]
    found = shell(*given, code=2 if "is for" in reason else 1)
    assert reason in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr
