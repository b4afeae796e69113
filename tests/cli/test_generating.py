"""``promptreg generate`` answers lines of text, of one task or of many."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli_shell import Shell
from promptreg_cli.demo.bases import wrong_base
from promptreg_cli.main import main


@pytest.fixture(autouse=True)
def tasks(shell: Shell, base: Path, reverse: Path, shout: Path) -> Shell:
    """A registry with two tasks for the demo's base model, one of them by an alias."""
    shell("push", reverse, "--task", "reverse", "--base", base, "--alias", "prod", "--no-canary")
    shell(
        "push", shout, "--task", "shout", "--base", base, "--no-canary", "--template", "{text} ->"
    )
    return shell


def answers(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def run(base: Path, *arguments: str | Path, typed: str = "") -> Any:
    words = ["generate", "--base", str(base), "--max-new-tokens", "12", *map(str, arguments)]
    return CliRunner().invoke(main, words, input=typed)


def test_a_file_may_mix_tasks(base: Path, tmp_path: Path) -> None:
    lines = [
        {"text": "garden", "prompt": "shout", "id": 7},
        {"text": "garden", "prompt": "reverse@prod"},
        {"text": "garden", "prompt": None},
        {"text": "stone"},
    ]
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\nplain\n")
    result = run(base, "--prompt", "reverse@prod", "--prompt", "shout", file)
    assert result.exit_code == 0, result.output
    assert answers(result.stdout) == [
        {"id": 7, "text": "garden", "prompt": "shout", "answer": "GARDEN!"},
        {"text": "garden", "prompt": "reverse@prod", "answer": "-> nedrag"},
        {"text": "garden", "prompt": None, "answer": "-> garden"},
        {"text": "stone", "prompt": "reverse@prod", "answer": "-> enots"},
        {"text": "plain", "prompt": "reverse@prod", "answer": "-> nialp"},
    ]


def test_small_batches_and_what_is_typed_give_the_same(base: Path) -> None:
    texts = "garden\r\nstone\nleaf\n"
    together = run(base, "--prompt", "shout", typed=texts)
    apart = run(base, "--prompt", "shout", "--batch-size", "1", typed=texts)
    assert [each["answer"] for each in answers(together.stdout)] == ["GARDEN!", "STONE!", "LEAF!"]
    assert apart.stdout == together.stdout


def test_answers_go_into_a_file(base: Path, tmp_path: Path) -> None:
    result = run(base, "--prompt", "shout", "-o", tmp_path / "out.jsonl", typed="garden\n")
    assert result.stdout == ""
    assert answers((tmp_path / "out.jsonl").read_text())[0]["answer"] == "GARDEN!"


def test_label_words_are_scored(tasks: Shell, base: Path, reverse: Path) -> None:
    labels = ("--label", "yes", "--label", "no")
    tasks("push", reverse, "--task", "asked", "--base", base, "--no-canary", *labels)
    (answer,) = answers(run(base, "--prompt", "asked", typed="garden\n").stdout)
    assert set(answer["scores"]) == {"yes", "no"}
    assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-5)
    assert answer["answer"] == max(answer["scores"], key=lambda label: answer["scores"][label])


def test_an_ensemble_answers_as_a_prompt_does(tasks: Shell, base: Path, reverse: Path) -> None:
    tasks(
        "push", reverse, "--task", "shout", "--base", base, "--no-canary", "--template", "{text} ->"
    )
    tasks("ensemble", "shout@1", "shout@2")
    (answer,) = answers(run(base, "--prompt", "shout@3", typed="garden\n").stdout)
    assert answer["answer"] in {"GARDEN!", "nedrag"}


def test_drawing_follows_the_seed(base: Path) -> None:
    how = ("--prompt", "shout", "--temperature", "3")
    one, two, other = (
        run(base, *how, "--seed", seed, typed="garden\nstone\n").stdout for seed in ("1", "1", "2")
    )
    assert one == two
    assert one != other
    refused = run(base, "--prompt", "shout", "--seed", "1", typed="garden\n")
    assert refused.exit_code == 2
    assert "add --temperature" in refused.stderr


def test_a_line_that_cannot_be_answered_takes_no_other_with_it(base: Path) -> None:
    result = run(base, "--prompt", "shout", typed=f"garden\n{'x' * 5000}\nstone\n")
    assert result.exit_code == 1
    first, bad, last = answers(result.stdout)
    assert (first["answer"], last["answer"]) == ("GARDEN!", "STONE!")
    assert "tokens long" in bad["error"]
    assert "fit into" in bad["error"]
    assert "1 of 3 lines could not be answered" in result.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "has no texts"),
        ("\n  \n", "has no texts"),
        ('{"text": 3}', 'line 1 has no "text"'),
        ('x\n{"prompt": "shout"}', 'line 2 has no "text"'),
        ("{broken", "line 1 begins as a JSON object and is none"),
        ('{"text": "a", "prompt": "spam"}', "line 1 names the prompt 'spam', and given are shout"),
        ('{"text": "a", "prompt": ["shout"]}', "line 1 names the prompt ['shout']"),
    ],
)
def test_lines_that_are_none_are_named(base: Path, typed: str, said: str) -> None:
    result = run(base, "--prompt", "shout", typed=typed)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stdout == ""


def test_text_that_is_not_utf8_says_so(base: Path, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    result = run(base, "--prompt", "shout", tmp_path / "latin")
    assert result.exit_code == 1
    assert "not UTF-8" in result.stderr


def test_a_prompt_for_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    wrong_base(base, tmp_path / "wrong")
    result = run(tmp_path / "wrong", "--prompt", "shout", typed="garden\n")
    assert result.exit_code == 1
    assert "shout" in result.stderr or "bfp1:" in result.stderr
    assert result.stdout == ""
    accepted = run(
        tmp_path / "wrong", "--prompt", "shout", "--policy", "same-shape", typed="garden\n"
    )
    assert accepted.exit_code == 0


def test_an_unknown_prompt_says_what_there_is(base: Path) -> None:
    result = run(base, "--prompt", "spam", typed="garden\n")
    assert result.exit_code == 1
    assert "no task is named 'spam'" in result.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ('{"text": "\\ud800x"}', "line 1 holds half a character"),
        ('{"text": "a", "n": NaN}', "NaN is no JSON"),
        ('{"text": "a", "n": ' + "[" * 100_000, "nested too deep"),
    ],
)
def test_lines_that_no_program_could_read_again_are_named(
    base: Path, typed: str, said: str
) -> None:
    result = run(base, "--prompt", "shout", typed=typed)
    assert result.exit_code == 1
    assert said in result.stderr


def test_fields_of_an_earlier_answer_are_not_taken_for_this_ones(base: Path) -> None:
    line = {"text": "garden", "error": "old", "scores": {"a": 1}, "answer": "x", "id": 1}
    (answer,) = answers(run(base, "--prompt", "shout", typed=json.dumps(line)).stdout)
    assert answer == {"id": 1, "text": "garden", "prompt": "shout", "answer": "GARDEN!"}


@pytest.mark.parametrize("options", [("--temperature", "nan"), ("--temperature", "1e-40")])
def test_a_temperature_is_a_number_that_can_be_divided_by(
    base: Path, options: tuple[str, str]
) -> None:
    result = run(base, "--prompt", "shout", *options, typed="garden\n")
    assert result.exit_code == 2
    assert "temperature" in result.stderr


def test_rounded_weights_are_named_as_the_reason(base: Path) -> None:
    result = run(base, "--prompt", "shout", "--dtype", "float16", typed="garden\n")
    assert result.exit_code == 1
    assert "--dtype float16 may round the base model's weights" in result.stderr
