"""Examples are read whole, and what is wrong with a line is said with its number."""

import json
from pathlib import Path

import pytest

from promptreg.digests import Digest
from promptreg.errors import InvalidDataError
from promptreg.tuning import read_examples


def write(path: Path, *lines: object) -> Path:
    rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_labels_are_known_in_the_order_in_which_they_come(tmp_path: Path) -> None:
    file = write(
        tmp_path / "train.jsonl",
        {"text": "a film", "label": "good", "id": 7},
        "",
        {"text": "", "label": "bad"},
        {"text": "another\u2028film", "label": "good"},
    )
    examples = read_examples(file)
    assert examples.labelled
    assert examples.labels == ("good", "bad")
    assert [(each.line, each.text) for each in examples.items] == [
        (1, "a film"),
        (3, ""),
        (4, "another\u2028film"),
    ]
    assert examples.digest == Digest.of(file.read_bytes())


def test_targets_are_texts_of_their_own(tmp_path: Path) -> None:
    examples = read_examples(write(tmp_path / "x", {"text": "a", "target": "A!"}))
    assert not examples.labelled
    assert examples.labels == ()
    assert examples.items[0].answer == "A!"


def test_a_byte_order_mark_and_carriage_returns_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(
        b'\xef\xbb\xbf{"text": "a", "label": "b"}\r\n\r\n{"text": "c", "label": "d"}\r\n'
    )
    assert [each.answer for each in read_examples(file).items] == ["b", "d"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{broken", "line 2: it is no JSON"),
        ("[" * 100_000, "line 2: it is no JSON"),
        ('{"text": NaN, "label": "a"}', "NaN is none of JSON's values"),
        ("[1]", "line 2: it is no JSON object"),
        ({"text": "a"}, "neither 'label' nor 'target'"),
        ({"text": "a", "label": "b", "target": "c"}, "both 'label' and 'target'"),
        ({"label": "b"}, "it has no 'text'"),
        ({"text": 3, "label": "b"}, "its 'text' is a int"),
        ({"text": "a", "label": 1}, "its 'label' is a int"),
        ({"text": "a", "label": " "}, "its 'label' is empty"),
        ({"text": "\ud800", "label": "b"}, "its 'text' holds half a character"),
        ({"text": "a", "target": "b"}, "it has a 'target', and the lines before a 'label'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, line: object, said: str) -> None:
    file = write(tmp_path / "x", {"text": "a", "label": "b"}, line)
    with pytest.raises(InvalidDataError, match=said) as raised:
        read_examples(file)
    assert raised.value.line == 2


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b'{"text": "caf\xe9", "label": "b"}')
    with pytest.raises(InvalidDataError, match="line 1: it is not UTF-8"):
        read_examples(tmp_path / "x")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_examples_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(InvalidDataError, match="it holds no examples"):
        read_examples(tmp_path / "x")


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    for path in (tmp_path / "nope", tmp_path):
        with pytest.raises(InvalidDataError, match="name a file that can be read"):
            read_examples(path)
