from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptreg.documents import parse_document, render_document

LIMIT = 10_000
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(document=st.dictionaries(TEXTS, VALUES, max_size=5))
def test_what_is_written_is_read_back(document: dict[str, Any]) -> None:
    data = render_document(document)
    found = parse_document(data, limit=LIMIT)
    assert found == document
    assert render_document(found) == data


def test_the_order_of_keys_makes_no_difference() -> None:
    assert render_document({"b": 1, "a": {"d": 2, "c": 3}}) == b'{"a":{"c":3,"d":2},"b":1}'
    assert render_document({"a": {"c": 3, "d": 2}, "b": 1}) == b'{"a":{"c":3,"d":2},"b":1}'


def test_text_is_written_as_utf8() -> None:
    assert render_document({"é": "日"}) == '{"é":"日"}'.encode()


def test_read_only_mappings_are_written_like_others() -> None:
    assert render_document({"a": MappingProxyType({"b": 1})}) == b'{"a":{"b":1}}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", object(), "\ud800"])
def test_what_json_cannot_hold_is_not_written(value: object) -> None:
    with pytest.raises(ValueError, match=r"JSON|compliant"):
        render_document({"a": value})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a":1,"a":2}', "'a' stands twice"),
        (b'{"x":[{"a":1,"\\u0061":2}]}', "'a' stands twice"),
        (b"[]", "not an object"),
        (b'"x"', "not an object"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a":01}', "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b'{"a":NaN}', "NaN is no JSON number"),
        (b'{"a":-Infinity}', "-Infinity is no JSON number"),
        (b'{"a":1e400}', "too large"),
        (b'{"a":-0}', "-0"),
        (b'{"a":123456789012345678901}', "too large"),
        (b'{"a":"\\ud800"}', "half a character"),
        (b'{"\\udfff":1}', "half a character"),
        (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
        (b'\xef\xbb\xbf{"a":1}', "not JSON"),
        (b'{"a":"\n"}', "not JSON"),
        (b'{"a":' + b"[" * 17 + b"]" * 17 + b"}", "nested"),
        (b'{"a":' + b"[" * 9000, "nested"),
        (b" " * (LIMIT + 1), "10,001 bytes long"),
    ],
)
def test_what_is_no_strict_json_is_refused_with_the_reason(text: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_document(text, limit=LIMIT)


@settings(deadline=None)
@given(
    data=st.binary(max_size=50)
    | st.text(max_size=50).map(lambda text: text.encode("utf-8", "ignore"))
)
def test_any_bytes_are_refused_with_a_value_error_or_are_an_object(data: bytes) -> None:
    try:
        found = parse_document(data, limit=LIMIT)
    except ValueError:
        return
    assert isinstance(found, dict)
