r"""Filters: ``metric.accuracy > 0.9 and (hp.lr <= 0.3 or alias = prod)``, read into a tree.

A comparison is true or false of every version, never unknown: what a version lacks, it does not equal and is
not less or greater than. ``a != b`` is ``not a = b``, so it is true of a version that lacks ``a``.

* Values are words or quoted: ``prod``, ``"two words"``; a backslash takes the next character as it is.
* ``*`` stands for any characters and ``?`` for one, with ``=`` and ``!=``; ``\*`` is a star.
* A word that reads like a number is one (``3``, ``-0.5``, ``1e-3``); ``true`` and ``false`` are booleans.
* Integers beyond 2**53 are equal digit by digit, and less or greater as the doubles nearest to them are.
* ``pushed_at`` is compared with a day (``2026-01-31``) or a moment (``2026-01-31T09:30``), in UTC unless it
  says otherwise, which stands for the whole of that day or minute.
* ``base``, ``digest``, ``manifest`` and ``canary`` may be given by their first 8 hex digits or more.
* ``and``, ``or`` and ``not`` may be in capitals; ``not`` binds closest, ``or`` least.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from promptreg.errors import InvalidFilterError

if TYPE_CHECKING:
    from lark import Lark, Token
    from lark.exceptions import UnexpectedInput

__all__ = ["Comparison", "Every", "Negation", "Node", "Some", "Value", "comparisons", "parse"]

_LONGEST = 4000
_DEEPEST = 32
_MOST = 100

_GRAMMAR = r"""
?some: every (_OR every)*
?every: unary (_AND unary)*
?unary: _NOT unary -> negation
      | _OPEN some _CLOSE
      | KEY OPERATOR (WORD | STRING) -> comparison

_OR.2: /or(?![\w.\/-])/i
_AND.2: /and(?![\w.\/-])/i
_NOT.2: /not(?![\w.\/-])/i
_OPEN: "("
_CLOSE: ")"
KEY: /[A-Za-z_][A-Za-z0-9_.\/-]*/
OPERATOR: "!=" | "<=" | ">=" | "=" | "<" | ">"
WORD: /(?:[^\s()"'=!<>\\]|\\.)+/
STRING: /"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'/s

%ignore /\s+/
"""
_EXPECTED = {
    "KEY": "a key",
    "_NOT": "'not'",
    "_OPEN": "'('",
    "OPERATOR": "one of = != < <= > >=",
    "WORD": "a value",
    "STRING": "a value",
    "_AND": "'and'",
    "_OR": "'or'",
    "_CLOSE": "')'",
    "$END": "the end",
}


@dataclass(frozen=True, slots=True)
class Value:
    """What something is compared with.

    Attributes:
        text: It, without quotes and backslashes.
        wildcards: The indices in ``text`` at which ``*`` or ``?`` is a wildcard.
        quoted: Whether it was in quotes, and so is a text whatever it reads like.
    """

    text: str
    wildcards: frozenset[int] = frozenset()
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """``key operator value``.

    Attributes:
        key: What is compared.
        operator: One of ``= != < <= > >=``.
        value: What it is compared with.
        at: Where the key stands in the expression.
        value_at: Where the value stands.
    """

    key: str
    operator: str
    value: Value
    at: int = 0
    value_at: int = 0


@dataclass(frozen=True, slots=True)
class Negation:
    """``not part``."""

    part: "Node"


@dataclass(frozen=True, slots=True)
class Every:
    """The ``parts``, joined by ``and``."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Some:
    """The ``parts``, joined by ``or``."""

    parts: "tuple[Node, ...]"


Node = Comparison | Negation | Every | Some


@lru_cache(maxsize=256)
def parse(expression: str) -> Node:
    """Read ``expression``.

    >>> parse("hp.lr <= 0.3").operator
    '<='

    Raises:
        InvalidFilterError: It cannot be understood, or is longer or nested deeper than is taken.
    """
    from lark.exceptions import UnexpectedInput

    if len(expression) > _LONGEST:
        reason = f"it has {len(expression):,} characters; at most {_LONGEST:,} are taken"
        raise InvalidFilterError(expression[:60] + "…", reason)
    try:
        node = _node(_parser().parse(expression))
    except UnexpectedInput as error:
        raise _explained(expression, error) from error
    except _TooDeepError as error:
        reason = f"parentheses and 'not' are nested more than {_DEEPEST} deep"
        raise InvalidFilterError(expression, reason) from error
    if sum(1 for _ in comparisons(node)) > _MOST:
        raise InvalidFilterError(expression, f"it has more than {_MOST} comparisons")
    return node


def comparisons(node: Node) -> Iterator[Comparison]:
    """Yield every comparison in ``node``."""
    match node:
        case Comparison():
            yield node
        case Negation():
            yield from comparisons(node.part)
        case Every() | Some():
            for part in node.parts:
                yield from comparisons(part)


class _TooDeepError(Exception):
    """The tree has too many storeys."""


@lru_cache(maxsize=1)
def _parser() -> "Lark":
    from lark import Lark

    return Lark(_GRAMMAR, start="some", parser="lalr")


def _node(tree: Any, depth: int = 0) -> Node:
    """Turn the parser's tree into ours."""
    if depth > _DEEPEST:
        raise _TooDeepError
    if tree.data == "comparison":
        return _comparison(*tree.children)
    parts = tuple(_node(child, depth + 1) for child in tree.children)
    if tree.data == "negation":
        return Negation(parts[0])
    make: Callable[[tuple[Node, ...]], Node] = Every if tree.data == "every" else Some
    return make(parts)


def _comparison(key: "Token", operator: "Token", value: "Token") -> Comparison:
    quoted = value.type == "STRING"
    text, wildcards = _unescape(value[1:-1] if quoted else str(value))
    return Comparison(
        str(key),
        str(operator),
        Value(text, wildcards, quoted),
        at=key.start_pos or 0,
        value_at=value.start_pos or 0,
    )


def _unescape(written: str) -> tuple[str, frozenset[int]]:
    text: list[str] = []
    wildcards = set()
    characters = iter(written)
    for character in characters:
        if character == "\\":
            text.append(next(characters))
            continue
        if character in "*?":
            wildcards.add(len(text))
        text.append(character)
    return "".join(text), frozenset(wildcards)


def _explained(expression: str, error: "UnexpectedInput") -> InvalidFilterError:
    token = getattr(error, "token", None)
    position = error.pos_in_stream or 0
    if token is not None and token.type == "$END":
        position = len(expression)
    names = getattr(error, "accepts", None) or getattr(error, "allowed", None) or ()
    wanted = sorted({_EXPECTED[name] for name in names if name in _EXPECTED})
    rest = expression[position:].split()
    if rest and rest[0][0] in "\"'" and "a value" in wanted:
        return InvalidFilterError(expression, "this quote is not closed", position)
    if not wanted:
        return InvalidFilterError(expression, "this ')' closes nothing", position)
    found = repr(rest[0]) if rest else "the end"
    reason = f"expected {' or '.join(wanted)}, found {found}"
    return InvalidFilterError(expression, reason, position)
