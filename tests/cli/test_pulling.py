import json
from pathlib import Path

import pytest

from cli_shell import Shell
from promptreg_cli.demo.bases import CHANGED_TENSOR, wrong_base


@pytest.fixture
def pushed(shell: Shell, base: Path, reverse: Path) -> Shell:
    shell("push", reverse, "--task", "words/reverse", "--base", base, "--alias", "prod")
    return shell


def test_pull_writes_a_peft_directory(pushed: Shell, reverse: Path, tmp_path: Path) -> None:
    result = pushed("pull", "words/reverse@prod", "out")
    assert result.stdout.startswith("pulled words/reverse@1  sha256:")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    original = json.loads((reverse / "adapter_config.json").read_text())
    assert config["peft_type"] == original["peft_type"] == "PROMPT_TUNING"
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_without_a_destination_it_is_named_after_the_version(pushed: Shell, tmp_path: Path) -> None:
    pushed("pull", "words/reverse")
    assert (tmp_path / "words-reverse-1" / "adapter_config.json").is_file()


@pytest.mark.parametrize("form", ["safetensors", "npy", "tensorrt-llm"])
def test_other_formats_are_written_on_demand(pushed: Shell, form: str, tmp_path: Path) -> None:
    pushed("pull", "words/reverse", "out", "--format", form)
    assert (tmp_path / "out").exists()


def test_what_was_pulled_pushes_as_the_same_version(pushed: Shell, base: Path) -> None:
    pushed("pull", "words/reverse", "out")
    (again,) = pushed.json("push", "out", "--task", "words/reverse", "--base", base)
    assert (again["ref"], again["created"]) == ("words/reverse@1", False)


def test_pull_does_not_overwrite(pushed: Shell, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    result = pushed("pull", "words/reverse", "out", code=1)
    assert "out" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_check_proves_prompt_and_base(pushed: Shell, base: Path) -> None:
    result = pushed("check", "words/reverse@prod", "--base", base, "--canary")
    assert "is whole and fits" in result.stdout
    assert "canary" in result.stdout


def test_check_refuses_a_base_with_one_changed_layer(
    pushed: Shell, base: Path, tmp_path: Path
) -> None:
    wrong_base(base, tmp_path / "wrong")
    result = pushed("check", "words/reverse@prod", "--base", "wrong", code=1)
    assert CHANGED_TENSOR.removeprefix("model.") in result.stderr
    assert result.stdout == ""


def test_check_gives_programs_the_verdict(pushed: Shell, base: Path) -> None:
    (fields,) = pushed.json("check", "words/reverse@prod", "--base", base)
    assert (fields["verdict"], fields["differing"]) == ("exact", [])


def test_a_yanked_prompt_is_pulled_with_a_warning(pushed: Shell) -> None:
    pushed("yank", "words/reverse@1", "--reason", "wrong data")
    result = pushed("pull", "words/reverse@1", "out")
    assert "warning: words/reverse@1 was yanked: wrong data" in result.stderr
