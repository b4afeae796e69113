from pathlib import Path

import pytest

from cli_shell import Shell


@pytest.fixture
def filled(shell: Shell, base: Path, reverse: Path, shout: Path) -> Shell:
    """A registry with two versions of one task, the first of them in production."""
    for prompt in (reverse, shout):
        shell("push", prompt, "--task", "words", "--base", base, "--no-canary")
    shell("alias", "words@1", "prod")
    return shell


def test_ensemble_prints_what_push_prints(filled: Shell) -> None:
    first = filled("ensemble", "words@prod", "words@2").stdout
    assert first.startswith("pushed words@3  sha256:")
    assert first.endswith("  on base\n")
    again = filled("ensemble", "words@1", "words@2")
    assert again.stdout == first.replace("pushed", "found", 1)
    assert again.stderr == "words@3 holds this prompt already\n"


def test_ensemble_gives_programs_one_object(filled: Shell) -> None:
    (pushed,) = filled.json("ensemble", "words@1", "words@2")
    assert list(pushed) == ["ref", "task", "version", "digest", "base", "created"]
    assert (pushed["ref"], pushed["created"]) == ("words@3", True)


def test_all_that_a_person_says_of_an_ensemble_is_registered(
    filled: Shell, base: Path, reverse: Path, shout: Path
) -> None:
    facts = ("--metric", "accuracy=0.97", "--alias", "best", "--note", "two of two")
    for prompt in (reverse, shout):
        words = ("--label", "a", "--label", "b")
        filled("push", prompt, "--task", "words", "--base", base, "--no-canary", *words)
    filled("ensemble", "words@4", "words@3", "--vote", "mean", "--base", base, *facts)
    (shown,) = filled.json("show", "words@best")
    assert (shown["method"], shown["members"]) == ("ensemble", ["words@4", "words@3"])
    assert (shown["vote"], shown["canary"]) == ("mean", False)
    assert (shown["metrics"], shown["aliases"]) == ({"accuracy": 0.97}, ["best"])
    assert shown["note"] == "two of two"
    one, other = (filled.json("show", f"words@{version}")[0]["tokens"] for version in (1, 2))
    assert shown["tokens"] == one + other


def test_a_mean_of_no_probabilities_is_refused(filled: Shell) -> None:
    refused = filled("ensemble", "words@1", "words@2", "--vote", "mean", code=1)
    assert "the members have no labels to be probable; vote by majority" in refused.stderr


def test_show_names_the_members_and_the_vote(filled: Shell) -> None:
    filled("ensemble", "words@1", "words@2")
    lines = dict(line.split("  ", 1) for line in filled("show", "words@3").stdout.splitlines())
    assert lines["members"].strip() == "words@1, words@2"
    assert lines["vote"].strip() == "majority"
    plain = filled("show", "words@1").stdout
    assert "members" not in plain
    assert "vote" not in plain
    (shown,) = filled.json("show", "words@1")
    assert (shown["members"], shown["vote"]) == ([], None)


def test_list_shows_an_ensemble_as_any_other_row(filled: Shell) -> None:
    filled("ensemble", "words@1", "words@2", "--task", "voting")
    (row,) = filled.json("list", "--where", "method = ensemble")
    assert (row["ref"], row["method"]) == ("voting@1", "ensemble")
    assert filled("list").stdout.splitlines()[1].split()[:3] == ["voting@1", "base", "ensemble"]


def test_an_ensemble_is_checked_and_pulled_whole_and_pushed_again(
    filled: Shell, base: Path
) -> None:
    filled("ensemble", "words@1", "words@2")
    assert "is whole and fits" in filled("check", "words@3", "--base", base).stdout
    filled("pull", "words@3", "out", "--format", "safetensors")
    (again,) = filled.json("push", "out", "--task", "words", "--base", base, "--no-canary")
    assert (again["ref"], again["created"]) == ("words@3", False)


@pytest.mark.parametrize("form", ["peft", "npy", "tensorrt-llm"])
def test_a_format_of_one_prompt_names_the_members_instead(
    filled: Shell, form: str, tmp_path: Path
) -> None:
    filled("ensemble", "words@1", "words@2")
    refused = filled("pull", "words@3", "out", "--format", form, code=1)
    assert "pull its members instead (words@1, words@2)" in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "Missing argument"),
        (("words@1",), 1, "at least 2 members"),
        (("words@1", "words@1"), 1, "it stands there twice"),
        (("words@1", "words@9"), 1, "no prompt is 'words@9'"),
        (("words@1", "words@2", "--vote", "borda"), 2, "'borda' is not one of"),
        (("words@1", "words@2", "--metric", "f1=good"), 2, "is a number"),
        (("words@1", "words@2", "--alias", "7"), 1, "is no alias"),
    ],
)
def test_what_is_no_ensemble_is_refused_and_registers_nothing(
    filled: Shell, words: tuple[str, ...], code: int, said: str
) -> None:
    assert said in filled("ensemble", *words, code=code).stderr
    assert len(filled.json("list")) == 2
