import json
from pathlib import Path

import pytest

from cli_shell import Shell


@pytest.fixture
def tasks(shell: Shell, base: Path, reverse: Path, shout: Path) -> Shell:
    for name, prompt in (("reverse", reverse), ("shout", shout)):
        template = ("--template", "{text} ->")
        shell("push", prompt, "--task", name, "--base", base, "--no-canary", *template)
    return shell


@pytest.fixture
def data(tmp_path: Path) -> Path:
    words = ["garden", "stone", "leaf", "river"]
    file = tmp_path / "test.jsonl"
    file.write_text("\n".join(json.dumps({"text": word, "target": word[::-1]}) for word in words))
    return file


def test_metrics_are_added_to_each_version(tasks: Shell, base: Path, data: Path) -> None:
    how = ("--base", base, "--data", data, "--prefix", "test_", "--max-new-tokens", "12")
    shown = tasks("eval", "reverse", "shout@1", *how).stdout.splitlines()
    assert shown[0].split() == ["REF", "METRIC", "VALUE", "95", "%", "EXAMPLES"]
    assert shown[1].split()[:2] == ["reverse@1", "test_exact_match"]
    (reverse,) = tasks.json("show", "reverse@1")
    (shout,) = tasks.json("show", "shout@1")
    assert reverse["metrics"]["test_exact_match"] >= 0.75
    assert shout["metrics"] == {"test_exact_match": 0.0}


def test_a_dry_run_records_nothing(tasks: Shell, base: Path, data: Path) -> None:
    how = ("--base", base, "--data", data, "--max-new-tokens", "12", "--dry-run")
    (measured,) = tasks.json("eval", "reverse", *how)
    assert measured["ref"] == "reverse@1"
    score = measured["metrics"]["exact_match"]
    assert score["low"] <= score["value"] <= score["high"]
    assert score["count"] == 4
    assert tasks.json("show", "reverse@1")[0]["metrics"] == {}


def test_examples_that_are_none_are_named_before_anything_is_loaded(
    tasks: Shell, base: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad").write_text('{"text": "a", "label": "b"}\n{"text": 3}')
    refused = tasks("eval", "reverse", "--base", base, "--data", tmp_path / "bad", code=1)
    assert "line 2: it has neither 'label' nor 'target'" in refused.stderr
