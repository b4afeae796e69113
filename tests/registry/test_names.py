import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptreg.errors import InvalidNameError
from promptreg.names import Reference, check_alias, check_base_name, check_task


@pytest.mark.parametrize("name", ["sst2", "acme/mail-spam", "a/b/c", "x.y_z-1", "0", "a" * 128])
def test_a_task_is_one_to_three_words(name: str) -> None:
    assert check_task(name) == name


BAD_TASKS = [
    "",
    "SST2",
    "a b",
    "a//b",
    "/a",
    "a/",
    "a/b/c/d",
    "a..b",
    "-a",
    "a-",
    "é",
    "a@b",
    "../etc",
    "a\n",
    "a\0",
    "²",
    "a" * 129,
    "%2e%2e",
]


@pytest.mark.parametrize("name", BAD_TASKS)
def test_a_name_outside_the_grammar_is_refused(name: str) -> None:
    with pytest.raises(InvalidNameError, match="is no task name"):
        check_task(name)


@pytest.mark.parametrize("name", ["1", "12", "Prod", "a/b", "", "x" * 129, "٣"])
def test_an_alias_is_a_word_and_not_a_number(name: str) -> None:
    with pytest.raises(InvalidNameError):
        check_alias(name)


@pytest.mark.parametrize("name", ["google/gemma-3-270m", "meta-llama/Llama-3.1-8B", "T5__base"])
def test_a_base_model_may_be_called_what_a_hub_calls_it(name: str) -> None:
    assert check_base_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "../x", "bfp1:abc", "a" * 129, "/x", "x/"])
def test_other_names_are_refused_for_a_base_model(name: str) -> None:
    with pytest.raises(InvalidNameError):
        check_base_name(name)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("sst2", Reference(task="sst2")),
        ("sst2@3", Reference(task="sst2", version=3)),
        ("acme/spam@prod", Reference(task="acme/spam", alias="prod")),
        ("sha256:0123abcd", Reference(digest_prefix="0123abcd")),
        ("sha256:" + "f" * 64, Reference(digest_prefix="f" * 64)),
    ],
)
def test_a_reference_reads_as_it_is_written(text: str, reference: Reference) -> None:
    assert Reference.parse(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "sst2@",
        "sst2@0",
        "sst2@01",
        "sst2@-1",
        "sst2@1@2",
        "sst2@Prod",
        "sst2@9999999999",
        "sha256:0123abc",
        "sha256:0123ABCD",
        "sha256:" + "f" * 65,
        "sst2@1\n",
        *(f"{task}@1" for task in BAD_TASKS if "@" not in task),
    ],
)
def test_a_reference_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(InvalidNameError):
        Reference.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_a_reference_that_reads_back_or_an_invalid_name(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidNameError:
        return
    assert str(reference) == text


def test_a_long_name_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidNameError) as caught:
        check_task("x" * 5000)
    assert len(str(caught.value)) < 400
