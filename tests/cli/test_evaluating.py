import json
from pathlib import Path
from typing import Any

import pytest

from cli_shell import Shell

ENDS = ("", "_low", "_high")


@pytest.fixture
def other(base: Path, tmp_path: Path) -> Path:
    """Another base model of the same shape."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.98)
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


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
    assert shout["metrics"]["test_exact_match"] == 0.0
    names = {f"test_{name}{end}" for name in ("exact_match", "perplexity") for end in ENDS}
    assert set(reverse["metrics"]) == set(shout["metrics"]) == names


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


def test_two_names_of_one_version_are_measured_once(tasks: Shell, base: Path, data: Path) -> None:
    names = ("reverse", "reverse@1", "rev*")
    found = tasks.json("eval", *names, "--base", base, "--data", data, "--dry-run")
    assert [each["ref"] for each in found] == ["reverse@1"]


def test_what_was_recorded_before_is_kept_and_shown(tasks: Shell, base: Path, data: Path) -> None:
    assert tasks("show", "reverse", "--metrics").stderr.startswith("no metric of reverse was ever")
    tasks("eval", "reverse", "--base", base, "--data", data, "--max-new-tokens", "1")
    assert tasks.json("show", "reverse")[0]["metrics"]["exact_match"] == 0
    tasks("eval", "reverse", "--base", base, "--data", data)
    found = [e for e in tasks.json("show", "reverse", "--metrics") if e["metric"] == "exact_match"]
    assert [each["value"] > 0.5 for each in found] == [True, False]
    assert found[0]["superseded_at"] is None
    assert found[1]["superseded_at"] == found[0]["recorded_at"]
    lines = tasks("show", "reverse", "--metrics").stdout.splitlines()
    assert lines[0].split() == ["METRIC", "RECORDED", "SUPERSEDED", "BY", "VALUE"]
    assert lines[2].startswith("exact_match ")
    assert lines[2].endswith(" 0")


def test_a_list_shows_scores_without_their_intervals(tasks: Shell, base: Path, data: Path) -> None:
    tasks("eval", "shout", "--base", base, "--data", data)
    (line,) = [each for each in tasks("list").stdout.splitlines() if each.startswith("shout@1")]
    assert "exact_match=0, perplexity=" in line
    assert "_low" not in line


def test_long_texts_are_cut_and_counted(tasks: Shell, base: Path, data: Path) -> None:
    how = ("--base", base, "--data", data, "--dry-run")
    said = tasks("eval", "reverse", "shout", *how, "--max-length", "8").stderr
    assert "3 of the 4 texts are longer than 8 tokens and were cut for reverse@1, shout@1" in said
    assert "cut" not in tasks("eval", "reverse", *how).stderr


@pytest.mark.parametrize("prefix", ["my test ", "../", "a\nb", "-", "x" * 130])
def test_a_prefix_that_no_metric_can_have_is_refused_before_anything_is_loaded(
    tasks: Shell, data: Path, tmp_path: Path, prefix: str
) -> None:
    empty = tmp_path / "no-model"
    empty.mkdir()
    refused = tasks("eval", "reverse", "--base", empty, "--data", data, "--prefix", prefix, code=1)
    assert "is no name of a metric" in refused.stderr


def test_labels_and_targets_are_not_mixed_up(
    tasks: Shell, base: Path, shout: Path, data: Path
) -> None:
    words = ("--label", "yes", "--label", "no")
    tasks("push", shout, "--task", "answer", "--base", base, "--no-canary", *words)
    refused = tasks("eval", "reverse", "answer", "--base", base, "--data", data, code=1)
    assert "it has targets, and answer@1 chooses from its labels: yes, no" in refused.stderr
    assert tasks.json("show", "reverse")[0]["metrics"] == {}


def test_an_ensemble_is_measured_too(tasks: Shell, base: Path, shout: Path, data: Path) -> None:
    tasks("push", shout, "--task", "reverse", "--base", base, "--template", "{text} ->")
    tasks("ensemble", "reverse@1", "reverse@2")
    how = ("--base", base, "--data", data, "--dry-run")
    *_, found = tasks.json("eval", "reverse@*", *how)
    assert (found["ref"], set(found["metrics"])) == ("reverse@3", {"exact_match"})
    shown = tasks("eval", "--matrix", "reverse@*", *how, "--metric", "perplexity").stdout
    assert shown.splitlines()[-1].split() == ["reverse@3", "none"]


class TestSeveralBaseModels:
    @pytest.fixture
    def both(self, tasks: Shell, other: Path, reverse: Path) -> Shell:
        template = ("--template", "{text} ->", "--alias", "prod")
        tasks("push", reverse, "--task", "reverse", "--base", other, "--no-canary", *template)
        tasks("alias", "reverse@1", "prod")
        return tasks

    def test_a_matrix_has_a_score_where_a_prompt_is_at_home(
        self, both: Shell, base: Path, other: Path, data: Path
    ) -> None:
        how = ("--base", base, "--base", other, "--data", data, "--prefix", "test_")
        lines = both("eval", "--matrix", "*", *how).stdout.splitlines()
        rows = [line.split() for line in lines]
        assert rows[0] == ["test_exact_match", "base", "other"]
        assert [row[0] for row in rows[1:]] == ["reverse@1", "shout@1", "reverse@2"]
        assert [row[2] for row in rows[1:3]] == ["-", "-"]
        assert rows[3][1] == "-"
        assert float(rows[3][2]) >= 0.75
        for ref in ("reverse@1", "reverse@2", "shout@1"):
            assert "test_exact_match_low" in both.json("show", ref)[0]["metrics"]

    def test_each_cell_is_an_object(self, both: Shell, base: Path, other: Path, data: Path) -> None:
        how = ("--base", base, "--base", other, "--data", data, "--dry-run")
        found = both.json("eval", "--matrix", "reverse@prod", *how)
        cells = [(each["ref"], each["base_name"], each["metrics"] is None) for each in found]
        assert cells == [
            ("reverse@1", "base", False),
            ("reverse@1", "other", True),
            ("reverse@2", "base", True),
            ("reverse@2", "other", False),
        ]
        assert len(both.json("eval", "reverse", *how)) == 2

    def test_a_prompt_of_none_of_the_base_models_is_named(
        self, both: Shell, base: Path, data: Path
    ) -> None:
        how = ("--base", base, "--data", data, "--dry-run")
        shown = both("eval", "--matrix", "reverse@1", "reverse@2", *how)
        assert "none of these: reverse@2 (for other)" in shown.stderr
        assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == ["reverse@1"]
        refused = both("eval", "--matrix", "reverse@2", *how, code=1)
        assert "there is no prompt to measure" in refused.stderr

    def test_a_prompt_of_another_base_model_is_compared_with_the_one_at_hand(
        self, both: Shell, base: Path, data: Path
    ) -> None:
        how = ("--base", base, "--data", data)
        refused = both("eval", "reverse@2", *how, code=1)
        assert "was trained on other" in refused.stderr
        said = both("eval", "reverse@2", *how, "--policy", "same-shape").stderr
        assert "reverse@2 is not at home on base: nothing was recorded for it" in said
        assert both.json("show", "reverse@2")[0]["metrics"] == {}

    def test_a_directory_that_holds_the_same_base_model_is_one(
        self, both: Shell, base: Path, data: Path
    ) -> None:
        how = ("--base", base, "--base", base, "--data", data, "--dry-run")
        shown = both("eval", "--matrix", "reverse@1", *how)
        assert "once more" in shown.stderr
        assert shown.stdout.splitlines()[0].split() == ["exact_match", "base"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--metric", "exact_match"), "--metric chooses what --matrix shows"),
        (("--matrix", "--metric", "accuracy"), "--metric is exact_match or perplexity"),
    ],
)
def test_a_metric_that_is_not_shown_is_a_usage_error(
    tasks: Shell, base: Path, data: Path, arguments: tuple[str, ...], said: str
) -> None:
    refused = tasks("eval", "reverse", "--base", base, "--data", data, *arguments, code=2)
    assert said in refused.stderr


def test_a_wildcard_that_matches_nothing_is_an_error(tasks: Shell, base: Path, data: Path) -> None:
    for reference in ("nothing/*", "reverse@9*"):
        refused = tasks("eval", reference, "--base", base, "--data", data, code=1)
        assert f"no prompt is '{reference}': no version that is not yanked" in refused.stderr
