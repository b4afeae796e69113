"""Examples to learn from and to be measured on: JSONL, a text and what it should be answered with a line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from promptreg.digests import Digest
from promptreg.errors import InvalidDataError

__all__ = ["Example", "Examples", "read_examples"]

_ANSWERS = ("label", "target")
_LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A text, and what it should be answered with.

    Attributes:
        line: Where it stands in its file, from 1.
        text: The text, without any template.
        answer: The label, or the target.
    """

    line: int
    text: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """What a file holds.

    Attributes:
        path: The file.
        digest: Of its bytes.
        labelled: Whether the answers are labels, a few words that come again; else each is a text of its own.
        items: The examples, in the file's order.
    """

    path: Path
    digest: Digest
    labelled: bool
    items: tuple[Example, ...] = field(repr=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order in which they first come; none if the answers are targets."""
        if not self.labelled:
            return ()
        return tuple(dict.fromkeys(example.answer for example in self.items))

    def __len__(self) -> int:
        return len(self.items)


def read_examples(path: Path | str) -> Examples:
    """Read JSONL of ``{"text", "label"}`` or ``{"text", "target"}``; other fields are left alone.

    Args:
        path: The file. Blank lines are left out.

    Raises:
        InvalidDataError: It cannot be read, holds nothing, or a line is not such an object: which line, and
            what is wrong with it.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidDataError(str(path), None, reason, "name a file that can be read") from error
    items, key = [], None
    for number, fields in _objects(path, data):
        own = _answer_key(path, number, fields)
        if key is not None and own != key:
            raise InvalidDataError(
                str(path),
                number,
                f"it has a {own!r}, and the lines before a {key!r}",
                "use one of the two",
            )
        key = own
        text, answer = fields["text"], fields[own]
        items.append(Example(line=number, text=str(text), answer=str(answer)))
    if not items:
        raise InvalidDataError(
            str(path), None, "it holds no examples", 'write {"text": …, "label": …} a line'
        )
    return Examples(path=path, digest=Digest.of(data), labelled=key == "label", items=tuple(items))


def _objects(path: Path, data: bytes) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield the number and the object of each line that is not blank."""
    # By line feeds alone, as JSONL has it: JSON may hold other separators inside of a text.
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            line = raw.decode()
            fields = json.loads(line, parse_constant=_no_constant)
        except UnicodeDecodeError as error:
            raise InvalidDataError(
                str(path), number, "it is not UTF-8", "save the file as UTF-8"
            ) from error
        except (ValueError, RecursionError) as error:
            reason = f"it is no JSON ({error}): {_shown(line)}"
            raise InvalidDataError(str(path), number, reason, "mend the line") from error
        if not isinstance(fields, dict):
            raise InvalidDataError(
                str(path), number, f"it is no JSON object: {_shown(line)}", "write an object a line"
            )
        yield number, fields


def _answer_key(path: Path, number: int, fields: dict[str, object]) -> str:
    """Return which of the two kinds of answer a line has, after checking its text and that."""
    given = [key for key in _ANSWERS if key in fields]
    if len(given) != 1:
        found = "both 'label' and 'target'" if given else "neither 'label' nor 'target'"
        raise InvalidDataError(str(path), number, f"it has {found}", "give it one of the two")
    for key in ("text", given[0]):
        value = fields.get(key)
        if not isinstance(value, str):
            found = (
                f"its {key!r} is a {type(value).__name__}"
                if key in fields
                else f"it has no {key!r}"
            )
            raise InvalidDataError(str(path), number, found, f"make {key!r} a text")
        if key != "text" and not value.strip():
            raise InvalidDataError(str(path), number, f"its {key!r} is empty", "fill it in")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise InvalidDataError(
                str(path), number, f"its {key!r} holds half a character", "leave the half out"
            )
    return given[0]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is none of JSON's values")


def _shown(line: str) -> str:
    line = line.strip()
    return line if len(line) <= _LONGEST_SHOWN else f"{line[:_LONGEST_SHOWN]}…"
