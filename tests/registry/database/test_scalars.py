"""Hyperparameters and metrics come back exactly as they went in."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptreg.database import Database
from promptreg.database.scalars import HEAD, check_scalars, from_row, to_row
from promptreg.errors import InvalidValueError
from promptreg.prompts import Scalar
from version_examples import add_bases, push, resolve

_SCALARS: st.SearchStrategy[Scalar] = (
    st.booleans()
    | st.integers(-(10**299), 10**299)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=2 * HEAD + 1)
)


@given(_SCALARS)
def test_a_value_comes_back_from_its_row(value: Scalar) -> None:
    check_scalars("metric", {"x": value})
    columns = to_row(value).columns()
    back = from_row(**columns)  # type: ignore[arg-type]
    assert (type(back), back) == (type(value), value)


VALUES: dict[str, Scalar] = {
    "true": True,
    "false": False,
    "zero": 0,
    "one": 1,
    "one.0": 1.0,
    "int64": 2**63 - 1,
    "beyond": -(2**200),
    "edge": 2**53 + 1,
    "tiny": 5e-324,
    "huge": 1.7976931348623157e308,
    "third": 1 / 3,
    "empty": "",
    "word": "adafactor",
    "number": "3",
    "lines": "ä\n\t😀",
    "long": "x" * 10_000,
    "edge/text": "y" * HEAD,
}


def test_values_of_every_type_come_back_from_the_database(
    upgraded_url: str, open_database: Callable[[str], Database]
) -> None:
    database = open_database(upgraded_url)
    add_bases(database)
    push(database, hyperparameters=VALUES, metrics=VALUES)
    version = resolve(database, "sst2@1")
    for back in (version.hyperparameters, version.metrics):
        assert back == VALUES
        assert {name: type(each) for name, each in back.items()} == {
            name: type(each) for name, each in VALUES.items()
        }


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, 10**300, -(10**400)])
def test_what_is_no_value_is_refused(value: object) -> None:
    with pytest.raises(InvalidValueError):
        check_scalars("hyperparameter", {"x": value})  # type: ignore[dict-item]
