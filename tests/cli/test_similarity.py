from pathlib import Path

import numpy as np
import pytest

from cli_shell import Shell


@pytest.fixture
def tasks(shell: Shell, base: Path, reverse: Path, shout: Path) -> Shell:
    for name, prompt in (("reverse", reverse), ("shout", shout)):
        shell("push", prompt, "--task", name, "--base", base, "--no-canary")
    return shell


def push_near(shell: Shell, reverse: Path, base: Path, task: str, by: float) -> None:
    """Push what is near to the prompt ``reverse``."""
    from promptreg import artifacts
    from promptreg.artifacts.arrays import to_array

    rows = to_array(artifacts.read(reverse).tensors["prompt_embeddings"])
    noise = np.random.default_rng(0).standard_normal(rows.shape).astype("<f4") * rows.std()
    np.save(shell.home / "near.npy", rows + by * noise)
    shell("push", shell.home / "near.npy", "--task", task, "--base", base, "--no-canary")


def test_the_closest_come_first_with_a_sentence_on_what_it_means(
    tasks: Shell, base: Path, reverse: Path
) -> None:
    push_near(tasks, reverse, base, "backwards", 0.1)
    push_near(tasks, reverse, base, "reverse", 0.2)
    lines = tasks("similar", "reverse@1").stdout.splitlines()
    assert lines[0].split()[:2] == ["REF", "COSINE"]
    assert [line.split()[0] for line in lines[1:4]] == ["backwards@1", "reverse@2", "shout@1"]
    assert [line.split()[4] for line in lines[1:4]] == ["other", "same", "other"]
    assert lines[-1].startswith("the closest of another task is backwards@1: cosine ")


def test_each_is_an_object_with_its_weakness(tasks: Shell) -> None:
    (found,) = tasks.json("similar", "reverse")
    assert found["ref"] == "shout@1"
    assert found["compared"] == "prompts"
    assert -1 <= found["cosine"] <= 1
    assert found["weak"] == "low"
    assert "similarity is weak" in tasks("similar", "reverse").stdout


def test_its_own_task_can_be_left_out(tasks: Shell, base: Path, reverse: Path) -> None:
    push_near(tasks, reverse, base, "reverse", 0.1)
    found = tasks.json("similar", "reverse@1", "--other-tasks")
    assert [each["ref"] for each in found] == ["shout@1"]
    assert len(tasks.json("similar", "reverse@1", "--limit", "1")) == 1


def test_a_prompt_alone_has_none(shell: Shell, base: Path, reverse: Path) -> None:
    shell("push", reverse, "--task", "reverse", "--base", base, "--no-canary")
    shown = shell("similar", "reverse")
    assert shown.stdout.startswith("no prompt of another task can be compared on ")
    assert shell.json("similar", "reverse") == []


def test_a_prompt_that_is_not_there_is_one_line(tasks: Shell) -> None:
    assert "no task is named 'nothing'" in tasks("similar", "nothing", code=1).stderr
