from pathlib import Path

import pytest

from cli_shell import Shell


@pytest.fixture
def pushed(shell: Shell, base: Path, reverse: Path) -> Shell:
    shell("push", reverse, "--task", "reverse", "--base", base, "--no-canary")
    return shell


def test_every_virtual_token_is_a_row_and_the_caveat_is_said(pushed: Shell, base: Path) -> None:
    shown = pushed("inspect", "reverse", "--base", base, "--nearest", "2")
    lines = shown.stdout.splitlines()
    assert lines[0].split()[:3] == ["TOKEN", "NORM", "PCT"]
    assert [line.split()[0] for line in lines[1:9]] == list("01234567")
    assert any(line.startswith("norms of the vocabulary's ") for line in lines)
    assert "such readings can mislead" in shown.stderr


def test_each_virtual_token_is_an_object(pushed: Shell, base: Path) -> None:
    found = pushed.json("inspect", "reverse", "--base", base, "--nearest", "3")
    assert [each["token"] for each in found] == list(range(8))
    for each in found:
        assert 0 <= each["percentile"] <= 100
        cosines = [near["cosine"] for near in each["nearest"]]
        assert cosines == sorted(cosines, reverse=True)
        assert len(cosines) == 3
        assert all(near["text"].isprintable() for near in each["nearest"])


def test_nearness_may_be_euclidean(pushed: Shell, base: Path) -> None:
    found = pushed.json("inspect", "reverse", "--base", base, "--by", "euclidean")
    for each in found:
        distances = [near["distance"] for near in each["nearest"]]
        assert distances == sorted(distances)


def test_a_yanked_prompt_is_shown_with_a_warning(pushed: Shell, base: Path) -> None:
    pushed("yank", "reverse@1", "--reason", "wrong labels")
    shown = pushed("inspect", "reverse@1", "--base", base)
    assert "warning: reverse@1 was yanked: wrong labels" in shown.stderr


def test_another_base_model_is_refused(pushed: Shell, tmp_path: Path) -> None:
    from registry.models.architectures import make

    make("llama").save_pretrained(tmp_path / "other")
    refused = pushed("inspect", "reverse", "--base", tmp_path / "other", code=1)
    assert "but this model is" in refused.stderr
    assert "incompatible" in refused.stderr
