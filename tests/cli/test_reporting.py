from pathlib import Path

import pytest

from cli_shell import Shell


@pytest.fixture
def tasks(shell: Shell, base: Path, reverse: Path, shout: Path) -> Shell:
    for task, prompt in (("demo/words", reverse), ("demo/words", shout), ("elsewhere", shout)):
        how = ("--base", base, "--no-canary", "--metric", "test_accuracy=0.9")
        shell("push", prompt, "--task", task, *how)
    return shell


def test_a_report_is_one_file_and_the_command_says_what_is_in_it(
    tasks: Shell, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    assert tasks("report", "demo/*", "--out", out).stdout == f"wrote {out}: 2 runs of 1 task\n"
    html = out.read_text("utf-8")
    assert html.startswith("<!doctype html>")
    assert "demo/words@2" in html
    assert "elsewhere" not in html
    assert list(tmp_path.glob(".promptreg-*")) == []
    assert tasks.json("report", "demo/words", "elsewhere", "--out", out) == [
        {"path": str(out), "tasks": ["demo/words", "elsewhere"], "runs": 3}
    ]


def test_a_metric_and_a_title_may_be_named(tasks: Shell, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    tasks("report", "demo/*", "--out", out, "--title", "Words & more")
    assert "<h1>Words &amp; more</h1>" in out.read_text("utf-8")
    refused = tasks("report", "demo/*", "--out", out, "--metric", "f1", code=1)
    assert "choose one of test_accuracy" in refused.stderr
    assert "<h1>Words &amp; more</h1>" in out.read_text("utf-8"), "the page before is left"


def test_a_file_that_is_no_report_is_left_alone(tasks: Shell, tmp_path: Path) -> None:
    out = tmp_path / "train.jsonl"
    out.write_text("precious")
    refused = tasks("report", "demo/*", "--out", out, code=1)
    assert "a file that is no report is there; name another file" in refused.stderr
    assert out.read_text() == "precious"


def test_where_nothing_can_be_written_is_said_first(shell: Shell, tmp_path: Path) -> None:
    refused = shell("report", "none", "--out", tmp_path / "no" / "r.html", code=1)
    assert f"make the directory {tmp_path / 'no'} first" in refused.stderr
    (tmp_path / "file").write_text("")
    refused = shell("report", "none", "--out", tmp_path / "file" / "r.html", code=1)
    assert "cannot write to" in refused.stderr
    shell("report", "none", "--out", tmp_path, code=2)


def test_nothing_registered_names_the_command_that_makes_some(shell: Shell, tmp_path: Path) -> None:
    refused = shell("report", "news", "--out", tmp_path / "r.html", code=1)
    assert "promptreg tune --task news --base DIR" in refused.stderr
    assert not (tmp_path / "r.html").exists()
