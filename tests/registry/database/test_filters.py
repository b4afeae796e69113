"""How a filter is read; what it finds is tried in test_pages."""

import pytest

from promptreg.database.filters import (
    Comparison,
    Every,
    Negation,
    Node,
    Some,
    Value,
    comparisons,
    parse,
)
from promptreg.errors import InvalidFilterError


def _key(node: Node) -> str:
    """Write ``node`` as its keys, fully parenthesised."""
    match node:
        case Comparison():
            return node.key
        case Negation():
            return f"not {_key(node.part)}"
        case Every():
            return "(" + " and ".join(map(_key, node.parts)) + ")"
        case Some():
            return "(" + " or ".join(map(_key, node.parts)) + ")"


@pytest.mark.parametrize(
    ("expression", "read"),
    [
        ("a=1 or b=2 and c=3", "(a or (b and c))"),
        ("(a=1 or b=2) and c=3", "((a or b) and c)"),
        ("not a=1 and b=2", "(not a and b)"),
        ("not (a=1 and b=2)", "not (a and b)"),
        ("not not a=1", "not not a"),
        ("a=1 AND b=2 Or NOT c=3", "((a and b) or not c)"),
        ("(((a=1)))", "a"),
        ("notes=1 and order=2 or android=3", "((notes and order) or android)"),
        ("  a\n=\t1  ", "a"),
    ],
)
def test_not_binds_closest_and_or_least(expression: str, read: str) -> None:
    assert _key(parse(expression)) == read


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("3", Value("3")),
        ("-1e-3", Value("-1e-3")),
        ("prod", Value("prod")),
        ("acme/mail-spam@3", Value("acme/mail-spam@3")),
        ("2026-01-31T10:00:00+01:00", Value("2026-01-31T10:00:00+01:00")),
        ("and", Value("and")),
        ("größe", Value("größe")),
        ("'two words'", Value("two words", quoted=True)),
        ('"a = 1 or (b)"', Value("a = 1 or (b)", quoted=True)),
        (r'"say \"hi\""', Value('say "hi"', quoted=True)),
        (r"'it\'s'", Value("it's", quoted=True)),
        ('""', Value("", quoted=True)),
        ("a*b?", Value("a*b?", frozenset({1, 3}))),
        ('"a *"', Value("a *", frozenset({2}), quoted=True)),
        (r"a\*b*", Value("a*b*", frozenset({3}))),
        (r'"why\?"', Value("why?", quoted=True)),
    ],
)
def test_a_value_is_a_word_or_quoted(written: str, value: Value) -> None:
    node = parse(f"key = {written}")
    assert isinstance(node, Comparison)
    assert node.value == value


@pytest.mark.parametrize("operator", ["=", "!=", "<", "<=", ">", ">="])
def test_an_operator_needs_no_spaces(operator: str) -> None:
    node = parse(f"hp.lr{operator}-.5")
    assert isinstance(node, Comparison)
    assert (node.key, node.operator, node.value.text) == ("hp.lr", operator, "-.5")


@pytest.mark.parametrize(
    ("expression", "position", "reason"),
    [
        ("", 0, "expected '(' or 'not' or a key, found the end"),
        ("hp.lr", 5, "expected one of = != < <= > >=, found the end"),
        ("hp.lr >", 7, "expected a value, found the end"),
        ("a=1 and", 7, "expected '(' or 'not' or a key, found the end"),
        ("a=1 b=2", 4, "expected 'and' or 'or' or the end, found 'b=2'"),
        ("(a=1", 4, "expected"),
        ("a=1)", 3, "this ')' closes nothing"),
        ("a == 1", 3, "expected a value, found '='"),
        ("a ~ 1", 2, "expected one of"),
        ("a = 'it", 4, "this quote is not closed"),
        ("1 = a", 0, "expected"),
        ("a = b\\", 5, "expected"),
        ("a = 1; DROP TABLE prompts", 7, "expected"),
    ],
)
def test_what_cannot_be_read_says_where_and_what_was_expected(
    expression: str, position: int, reason: str
) -> None:
    with pytest.raises(InvalidFilterError) as caught:
        parse(expression)
    assert caught.value.position == position
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("a=" + "1" * 4000, "it has 4,002 characters; at most 4,000 are taken"),
        ("not " * 40 + "a=1", "nested more than 32 deep"),
        ("(a=1 or " * 40 + "a=1" + ")" * 40, "nested more than 32 deep"),
        (" or ".join(["a=1"] * 101), "it has more than 100 comparisons"),
    ],
)
def test_a_filter_is_neither_too_long_nor_too_deep(expression: str, reason: str) -> None:
    with pytest.raises(InvalidFilterError, match=reason):
        parse(expression)


def test_parentheses_alone_are_no_depth() -> None:
    assert _key(parse("(" * 500 + "a=1" + ")" * 500)) == "a"


def test_all_comparisons_are_found() -> None:
    keys = [each.key for each in comparisons(parse("a=1 and not (b=2 or c=3)"))]
    assert keys == ["a", "b", "c"]
