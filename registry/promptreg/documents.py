"""JSON documents: read strictly, because strangers write them; written in one way, because they are hashed."""

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["parse_document", "render_document"]

_DEEPEST = 16
_LONGEST_INTEGER = 20  # a 64-bit number and its sign


def parse_document(data: bytes, *, limit: int) -> dict[str, Any]:
    """Return the JSON object that ``data`` holds, at most ``limit`` bytes long.

    Stricter than JSON: a key stands once in its object, numbers are finite and integers fit in 64 bits or so,
    strings can be written as UTF-8 again, and nothing is nested deeper than a configuration is.

    Raises:
        ValueError: It is no such document; the text says why.
    """
    if len(data) > limit:
        raise ValueError(f"it is {len(data):,} bytes long, and at most {limit:,} are read")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}") from error
    try:
        document = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} at character {error.pos + 1}") from error
    if type(document) is not dict:
        raise ValueError("it is JSON, but not an object")
    _check(document, _DEEPEST)
    return document


def render_document(document: Mapping[str, Any]) -> bytes:
    """Return ``document`` as canonical JSON: sorted keys, no spaces, UTF-8; the same value, the same bytes.

    Raises:
        ValueError: It holds what JSON or ``parse_document`` cannot: NaN, infinity, another type.
    """
    try:
        text = json.dumps(
            document,
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
            default=_plain,
        )
        return text.encode("utf-8")
    except (TypeError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"it cannot be written as JSON: {error}") from error


def _plain(value: object) -> dict[Any, Any]:
    """Let read-only mappings be written like any other."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON type")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {_shown(key)} stands twice in one object")
        found[key] = value
    return found


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER:
        raise ValueError(f"the integer {_shown(digits)} is too large")
    if digits == "-0":  # a float to other readers
        raise ValueError("the integer -0 is not a number that everybody reads alike")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {_shown(digits)} is too large")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _check(value: object, depth: int) -> None:
    """Refuse what is nested too deeply, and strings that no UTF-8 file can hold (lone surrogates)."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"the text {_shown(value)} holds half a character") from None
    elif isinstance(value, dict | list):
        if depth == 0:
            raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
        for inner in value:
            _check(inner, depth - 1)
        if isinstance(value, dict):
            for inner in value.values():
                _check(inner, depth - 1)


def _shown(text: str, most: int = 40) -> str:
    return ascii(text if len(text) <= most else text[:most] + "...")
