from pathlib import Path

import pytest

from cli_shell import Shell
from registry.models.architectures import make


def test_push_prints_the_reference_and_the_digest(shell: Shell, base: Path, reverse: Path) -> None:
    result = shell("push", reverse, "--task", "words/reverse", "--base", base)
    assert result.stdout.startswith("pushed words/reverse@1  sha256:")
    assert result.stdout.endswith("on base\n")


def test_push_gives_programs_one_object(shell: Shell, base: Path, reverse: Path) -> None:
    (pushed,) = shell.json("push", reverse, "--task", "words/reverse", "--base", base)
    assert list(pushed) == ["ref", "task", "version", "digest", "base", "created"]
    assert pushed["ref"] == "words/reverse@1"
    assert pushed["base"].startswith("bfp1:")
    assert pushed["created"] is True


def test_pushing_the_same_prompt_again_is_the_version_that_exists(
    shell: Shell, base: Path, reverse: Path
) -> None:
    (first,) = shell.json("push", reverse, "--task", "t", "--base", base)
    (second,) = shell.json("push", reverse, "--task", "t", "--base", base)
    assert second == first | {"created": False}
    assert len(shell.json("list")) == 1


def test_a_push_that_found_its_prompt_says_what_it_did(
    shell: Shell, base: Path, reverse: Path
) -> None:
    push = ("push", reverse, "--task", "t", "--base", base, "--no-canary")
    shell(*push, "--note", "first")
    said = shell(*push, "--note", "second", "--metric", "f1=0.5", "--alias", "prod").stderr
    assert "its metrics were brought up to date" in said
    assert "prod now stands for it" in said
    assert "its note stays 'first'" in said


def test_an_array_on_an_encoder_decoder_is_a_prompt_for_its_encoder(
    shell: Shell, tmp_path: Path
) -> None:
    import numpy as np

    make("t5").save_pretrained(tmp_path / "t5")
    np.save(tmp_path / "p.npy", np.full((2, 32), 0.5, dtype=np.float32))
    shell("push", "p.npy", "--task", "t", "--base", "t5")
    (shown,) = shell.json("show", "t")
    assert (shown["task_type"], shown["canary"]) == ("SEQ_2_SEQ_LM", True)


def test_a_canary_can_follow(shell: Shell, base: Path, reverse: Path) -> None:
    push = ("push", reverse, "--task", "t", "--base", base)
    shell(*push, "--no-canary")
    shell(*push)
    shell("check", "t", "--base", base, "--canary")


def test_a_template_has_one_place_for_the_text(shell: Shell, base: Path, reverse: Path) -> None:
    push = ("push", reverse, "--task", "t", "--base", base, "--no-canary")
    for template in ("no place", "", "{text}{text}"):
        assert "{text} once" in shell(*push, "--template", template, code=1).stderr


def test_a_prompt_is_pushed_on_a_base_by_its_name_and_by_its_fingerprint(
    shell: Shell, base: Path, reverse: Path
) -> None:
    (added,) = shell.json("base", "add", base, "--name", "small")
    (named,) = shell.json("push", reverse, "--task", "a", "--base", "small")
    (printed,) = shell.json("push", reverse, "--task", "b", "--base", added["fingerprint"])
    assert named["base"] == printed["base"] == added["fingerprint"]


def test_everything_said_at_the_push_is_registered(shell: Shell, base: Path, reverse: Path) -> None:
    shell("push", reverse, "--task", "t", "--base", base, "--no-canary")
    facts = (
        "--hyperparameter",
        "lr=0.3",
        "--hyperparameter",
        "optimizer=adamw",
        "--metric",
        "accuracy=0.9",
    )
    words = ("--alias", "prod", "--template", "{text}?", "--label", "yes", "--label", "no")
    shell(
        "push",
        reverse,
        "--task",
        "t",
        "--base",
        base,
        *facts,
        *words,
        "--parent",
        "t@1",
        "--note",
        "n",
    )
    (shown,) = shell.json("show", "t@prod")
    assert shown["hyperparameters"]["lr"] == 0.3
    assert shown["hyperparameters"]["optimizer"] == "adamw"
    assert shown["hyperparameters"]["num_virtual_tokens"] == shown["tokens"]
    assert shown["metrics"] == {"accuracy": 0.9}
    assert (shown["parent"], shown["note"], shown["aliases"]) == ("t@1", "n", ["prod"])


def test_a_canary_is_recorded_when_the_base_is_at_hand(
    shell: Shell, base: Path, reverse: Path
) -> None:
    shell("push", reverse, "--task", "with", "--base", base)
    shell("push", reverse, "--task", "without", "--base", base, "--no-canary")
    canaries = {shown["task"]: shown["canary"] for shown in shell.json("list")}
    assert canaries == {"with": True, "without": False}


def test_two_directories_of_one_name_are_two_base_models(
    shell: Shell, base: Path, reverse: Path, tmp_path: Path
) -> None:
    from promptreg_cli.demo.bases import wrong_base

    (tmp_path / "other").mkdir()
    wrong_base(base, tmp_path / "other" / "base")
    shell("push", reverse, "--task", "t", "--base", base)
    (pushed,) = shell.json("push", reverse, "--task", "t", "--base", tmp_path / "other" / "base")
    assert pushed["ref"] == "t@2"
    assert sorted(str(row["name"]) for row in shell.json("base", "list")) == ["None", "base"]


@pytest.mark.parametrize(
    "words",
    [
        ("--metric", "accuracy"),
        ("--metric", "accuracy=good"),
        ("--metric", "accuracy=true"),
        ("--hyperparameter", "=1"),
        ("--hyperparameter", "lr=1", "--hyperparameter", "lr=2"),
    ],
)
def test_a_malformed_option_is_a_usage_error(
    shell: Shell, base: Path, reverse: Path, words: tuple[str, ...]
) -> None:
    shell("push", reverse, "--task", "t", "--base", base, *words, code=2)
