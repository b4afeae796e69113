import io
import json
import math
from contextlib import redirect_stdout
from pathlib import Path

import click
import pytest

from promptreg.tuning import Evaluation, Score
from promptreg_cli.choosing import Place
from promptreg_cli.measured import Measured, note_cuts, objects, print_matrix

LONG = tuple(
    Place(path=Path(), fingerprint=f"bfp1:{number}", name=f"a-base-model-with-a-long-name-{number}")
    for number in range(3)
)


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        self.flush()
        self.seek(0)
        return click.unstyle(self.read()).splitlines()


def measured(ref: str, at: Place, value: float = 0.5, cut: int = 0) -> Measured:
    score = Score(value=value, low=0.25, high=value, count=4)
    found = Evaluation(scores={"perplexity": score}, max_length=8, cut=cut)
    return Measured(place=at, ref=ref, found=found, at_home=True)


@pytest.fixture
def terminal() -> Terminal:
    return Terminal(io.BytesIO(), encoding="utf-8")


def test_numbers_stand_for_names_that_are_too_wide_for_the_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    rows = [measured(f"bbc/topic@{number}", at) for number, at in enumerate(LONG, start=1)]
    with redirect_stdout(terminal):
        print_matrix(rows, LONG, "perplexity", prefix="")
    lines = terminal.lines()
    assert lines[0].split() == ["perplexity", "[1]", "[2]", "[3]"]
    assert lines[2].split() == ["bbc/topic@2", "-", "0.5000", "-"]
    assert lines[-1] == "[3] a-base-model-with-a-long-name-2"
    assert max(map(len, lines)) <= 60


def test_names_are_shown_where_they_fit(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with redirect_stdout(terminal):
        print_matrix([measured("t@1", LONG[0])], LONG, "perplexity", prefix="test_")
    header, row = terminal.lines()
    assert header.split() == ["test_perplexity", *(place.name for place in LONG)]
    assert row.split() == ["t@1", "0.5000", "-", "-"]


def test_a_perplexity_beyond_all_numbers_is_shown_and_not_recorded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    beyond = measured("t@1", LONG[0], math.inf)
    assert beyond.metrics("test_") == {}
    assert "t@1: perplexity is no finite number and was not recorded" in capsys.readouterr().err
    (fields,) = objects([beyond], [], data="sha256:0", prefix="")
    assert json.loads(json.dumps(fields, allow_nan=False))["metrics"]["perplexity"] == {
        "value": None,
        "low": 0.25,
        "high": None,
        "count": 4,
    }


def test_prompts_that_lost_the_same_are_named_together(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [measured(f"t@{number}", LONG[0], cut=number // 2) for number in (1, 2, 3)]
    note_cuts(rows, 4)
    said = "1 of the 4 texts are longer than 8 tokens and were cut for t@2, t@3\n"
    assert capsys.readouterr().err == said
