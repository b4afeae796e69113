"""Examples become token ids: put into their template, cut to fit, with the answer that a model has to say."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from promptreg.digests import Digest
from promptreg.errors import TuningError
from promptreg.tuning import Example, Examples
from promptreg.tuning.rows import Reading, cut, make_rows
from promptreg_cli.demo import base_directory

TOKENIZER = AutoTokenizer.from_pretrained(base_directory())


def examples(*texts: str, labelled: bool = True, answer: str = "yes") -> Examples:
    items = tuple(Example(line=at + 1, text=text, answer=answer) for at, text in enumerate(texts))
    return Examples(path=Path("x"), digest=Digest.of(b""), labelled=labelled, items=items)


def reading(template: str | None = "{text} ->", labels: tuple[str, ...] = ("yes", "no")) -> Reading:
    return Reading(tokenizer=TOKENIZER, template=template, labels=labels)


def test_a_row_is_the_filled_template_and_the_answer() -> None:
    (row,) = make_rows(examples("ab"), reading())
    assert list(row.ids) == TOKENIZER("ab ->")["input_ids"]
    assert list(row.answer) == TOKENIZER(" yes", add_special_tokens=False)["input_ids"]
    assert row.label == 0
    assert row.width == len(row.ids) + len(row.answer)


def test_a_target_ends_with_the_end_of_the_sequence() -> None:
    (row,) = make_rows(examples("ab", labelled=False), reading(labels=()))
    assert row.answer[-1] == TOKENIZER.eos_token_id
    assert row.label == -1


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=60),
    st.integers(6, 40),
)
def test_a_cut_text_fits_and_is_the_beginning(text: str, room: int) -> None:
    given_examples = examples(text)
    found, count = cut(given_examples, reading(), room)
    short = found.items[0].text
    assert text.startswith(short)
    assert len(TOKENIZER(f"{short} ->")["input_ids"]) <= room
    assert (count == 1) is (short != text)
    if count and len(short) + 1 < len(text):
        longer = text[: len(short) + 1]
        assert len(TOKENIZER(f"{longer} ->")["input_ids"]) > room


def test_a_template_without_room_for_a_text_is_refused() -> None:
    with pytest.raises(TuningError, match="the template takes"):
        cut(examples("a" * 99), reading(template="x" * 30 + "{text}"), 20)
