import subprocess
import sys
from pathlib import Path

import pytest

from cli_shell import Shell
from promptreg_cli.demo.bases import wrong_base


@pytest.fixture
def filled(shell: Shell, base: Path, reverse: Path, shout: Path) -> Shell:
    push = ("--base", base, "--no-canary")
    shell(
        "push",
        reverse,
        "--task",
        "words/reverse",
        *push,
        "--metric",
        "accuracy=0.9",
        "--alias",
        "prod",
    )
    shell("push", shout, "--task", "words/shout", *push, "--metric", "accuracy=0.95")
    shell("push", shout, "--task", "words/reverse", *push, "--hyperparameter", "lr=0.1")
    return shell


def test_list_shows_the_newest_first(filled: Shell) -> None:
    lines = filled("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "REF",
        "words/reverse@2",
        "words/shout@1",
        "words/reverse@1",
    ]


def test_list_takes_a_task_a_filter_a_sort_key_and_a_limit(filled: Shell) -> None:
    def refs(*words: str) -> list[str]:
        return [row["ref"] for row in filled.json("list", *words)]

    assert refs("words/shout") == ["words/shout@1"]
    assert refs("words/*", "--where", "metric.accuracy > 0.9") == ["words/shout@1"]
    assert refs("--where", "alias = prod or hp.lr < 0.2") == ["words/reverse@2", "words/reverse@1"]
    assert refs("--sort", "-metric.accuracy", "--limit", "1") == ["words/shout@1"]


def test_list_goes_on_where_the_page_before_ended(filled: Shell) -> None:
    first = filled("list", "--limit", "2")
    cursor = first.stderr.rsplit(maxsplit=1)[1]
    assert [row["ref"] for row in filled.json("list", "--after", cursor)] == ["words/reverse@1"]


def test_list_says_when_there_is_nothing(shell: Shell) -> None:
    result = shell("list")
    assert (result.stdout, result.stderr) == ("", "no prompt is registered yet\n")


def test_a_row_tells_programs_all_that_the_issue_names(filled: Shell) -> None:
    row = filled.json("list", "words/shout")[0]
    wanted = {"ref", "task", "version", "digest", "base", "hyperparameters", "metrics", "aliases"}
    assert wanted | {"method", "tokens", "token_dim", "pushed_at"} <= set(row)


def test_an_alias_moves_and_says_from_where(filled: Shell) -> None:
    result = filled("alias", "words/reverse@2", "prod")
    assert result.stdout == "words/reverse@prod is words/reverse@2 (was words/reverse@1)\n"
    assert filled.json("show", "words/reverse@prod")[0]["version"] == 2


def test_a_yanked_version_is_left_out_and_still_there_by_number(filled: Shell) -> None:
    filled("yank", "words/reverse@2", "--reason", "trained on the test set")
    assert filled.json("show", "words/reverse")[0]["version"] == 1
    assert "trained on the test set" in filled("show", "words/reverse@2").stdout
    assert len(filled.json("list")) == 2
    assert len(filled.json("list", "--yanked")) == 3


def test_show_is_for_people_too(filled: Shell) -> None:
    lines = dict(
        line.split("  ", 1) for line in filled("show", "words/reverse@1").stdout.splitlines()
    )
    assert lines["ref"].strip() == "words/reverse@1"
    assert lines["metric.accuracy"].strip() == "0.9"


@pytest.mark.usefixtures("filled")
def test_completion_offers_registered_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from click import Context

    from promptreg_cli.main import main
    from promptreg_cli.parameters import BASE, REFERENCE

    ctx = Context(main)
    param = main.params[0]
    assert [i.value for i in REFERENCE.shell_complete(ctx, param, "words/r")] == ["words/reverse"]
    offered = [i.value for i in REFERENCE.shell_complete(ctx, param, "words/reverse@")]
    assert offered == ["words/reverse@2", "words/reverse@1", "words/reverse@prod"]
    assert next(i.value for i in BASE.shell_complete(ctx, param, "ba")) == "base"
    monkeypatch.setenv("PROMPTREG_DATABASE_URL", "sqlite:////nowhere/at/all.db")
    assert REFERENCE.shell_complete(ctx, param, "") == []


def test_a_base_that_contradicts_the_reference_is_refused(
    filled: Shell, base: Path, tmp_path: Path
) -> None:
    wrong_base(base, tmp_path / "other")
    filled("base", "add", "other")
    for words in (("show", "words/shout@1"), ("yank", "words/shout@1", "--reason", "z")):
        assert "was asked for" in filled(*words, "--base", "other", code=1).stderr
    assert filled.json("show", "words/shout@1")[0]["yanked"] is None


def test_a_directory_names_its_base_model_everywhere(filled: Shell, base: Path) -> None:
    assert filled.json("show", "words/reverse@prod", "--base", base)[0]["version"] == 1
    assert "is words/reverse@1" in filled("alias", "words/reverse@1", "best", "--base", base).stdout
    assert filled.json("base", "show", base)[0]["name"] == "base"


def test_show_tells_template_and_labels(shell: Shell, base: Path, shout: Path) -> None:
    words = ("--template", "{text}?", "--label", "yes", "--label", "no")
    shell("push", shout, "--task", "t", "--base", base, "--no-canary", *words)
    assert "yes, no" in shell("show", "t").stdout
    assert shell.json("show", "t")[0]["template"] == "{text}?"


def test_a_narrow_terminal_keeps_the_references(
    filled: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptreg_cli import output

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(output, "is_terminal", lambda _stream: True)
    lines = filled("list").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        "words/reverse@2",
        "words/shout@1",
        "words/reverse@1",
    ]
    assert max(map(len, lines)) <= 40


def test_a_full_disk_behind_the_output_is_one_line(filled: Shell) -> None:
    assert filled.home.exists()
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "promptreg_cli", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "Error: cannot write the output: No space left on device\n"


def test_a_closed_output_is_no_traceback(filled: Shell) -> None:
    assert filled.home.exists()
    command = f"{sys.executable} -m promptreg_cli list >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
