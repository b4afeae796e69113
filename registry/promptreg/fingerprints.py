"""Fingerprints: what base model this is, by its weights. Pure values: nothing here needs torch.

The scheme ``bfp1`` is specified in docs/format.md. In short: a record for every parameter (canonical name,
dtype, shape, BLAKE3-256 of its bytes), sorted by name, length-prefixed, hashed under a domain tag. The same
construction over a part of the records gives that part's digest.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

__all__ = ["Comparison", "Fingerprint", "Part", "TensorRecord", "Verdict", "WeightTable", "compare"]

_PATTERN = re.compile(r"bfp1:[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Fingerprint:
    """The identity of a base model, written ``bfp1:<64 hex digits>``."""

    text: str

    def __post_init__(self) -> None:
        if not _PATTERN.fullmatch(self.text):
            raise ValueError(f"a fingerprint reads bfp1:<64 hex digits>, not {self.text!r}")

    @property
    def short(self) -> str:
        """Enough of it to tell base models apart on a screen."""
        return self.text[:17]

    def __str__(self) -> str:
        return self.text


class Part(StrEnum):
    """The three parts of a base model that are compared on their own."""

    EMBEDDING = "embedding"
    """The input embedding."""
    BODY = "body"
    """The rest of the backbone."""
    HEAD = "head"
    """What stands on the backbone: an untied output head, a classifier, a pooler."""


class Verdict(StrEnum):
    """What comparing two base models yields, from the best to the worst."""

    EXACT = "exact"
    SAME_EMBEDDING = "same-embedding"
    SAME_SHAPE = "same-shape"
    INCOMPATIBLE = "incompatible"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRecord:
    """One parameter of a base model.

    Attributes:
        name: Its canonical name: no wrapper's prefix, no ``model.``.
        part: The part that it belongs to.
        dtype: The narrowest dtype that holds its values, as safetensors writes it (``BF16``).
        shape: Its shape.
        digest: The BLAKE3-256 of its little-endian, C-order bytes in that dtype, 64 hex digits.
    """

    name: str
    part: Part
    dtype: str
    shape: tuple[int, ...]
    digest: str

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.digest):
            raise ValueError(f"a tensor's digest is 64 hex digits, not {self.digest!r}")


@dataclass(frozen=True, kw_only=True)
class WeightTable:
    """The records of all parameters of a base model, sorted by name; from them all digests follow.

    Raises:
        ValueError: There are none, or two have the same name.
    """

    records: tuple[TensorRecord, ...] = field(repr=False)

    def __post_init__(self) -> None:
        names = [record.name for record in self.records]
        if not names:
            raise ValueError("a base model has at least one parameter")
        if len(set(names)) != len(names):
            raise ValueError("two parameters of a base model have the same name")
        ordered = tuple(sorted(self.records, key=lambda record: record.name.encode()))
        object.__setattr__(self, "records", ordered)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The identity of the base model, over all its parameters."""
        return Fingerprint(f"bfp1:{_root('all', self.records)}")

    def part(self, part: Part) -> str | None:
        """Return the digest of ``part``, 64 hex digits, or None if the base model has no such part."""
        records = [record for record in self.records if record.part is part]
        return _root(part.value, records) if records else None

    def to_bytes(self) -> bytes:
        """Return the table as canonical JSON, the bytes that are stored as an object."""
        rows = [[r.name, r.part.value, r.dtype, list(r.shape), r.digest] for r in self.records]
        document = {"scheme": "bfp1", "tensors": rows}
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "WeightTable":
        """Read what ``to_bytes`` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            document = json.loads(data)
            if document["scheme"] != "bfp1":
                raise ValueError(f"the table's scheme is {document['scheme']!r}, not 'bfp1'")
            records = tuple(
                TensorRecord(
                    name=name, part=Part(part), dtype=dtype, shape=tuple(shape), digest=digest
                )
                for name, part, dtype, shape, digest in document["tensors"]
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no table of weights: {error}") from error
        return cls(records=records)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How a base model at hand compares with the one that a prompt was trained on.

    Attributes:
        verdict: The verdict.
        differing: The canonical names of the tensors that differ, are missing or are extra, in order.
        headless: True if one of the two has no head, so that only what both have was compared.
    """

    verdict: Verdict
    differing: tuple[str, ...] = ()
    headless: bool = False


def compare(expected: WeightTable, actual: WeightTable) -> Comparison:
    """Compare the base model that a prompt was trained on with the one at hand.

    A head that only one of the two has (a model loaded as its backbone alone, or one with a new classifier
    on the same backbone) is no difference: the prompt acts on the backbone. A head that both have must agree.
    """
    wanted = {record.name: record for record in expected.records}
    found = {record.name: record for record in actual.records}
    headless = False
    differing = []
    for name in sorted(wanted.keys() | found.keys()):
        mine, other = wanted.get(name), found.get(name)
        if mine is None or other is None:
            present = mine or other
            if present is not None and present.part is Part.HEAD:
                headless = True
                continue
        if mine != other:
            differing.append(name)
    if not differing:
        return Comparison(verdict=Verdict.EXACT, headless=headless)
    if _shapes(wanted.values()) != _shapes(found.values()):
        verdict = Verdict.INCOMPATIBLE
    elif expected.part(Part.EMBEDDING) == actual.part(Part.EMBEDDING):
        verdict = Verdict.SAME_EMBEDDING
    else:
        verdict = Verdict.SAME_SHAPE
    return Comparison(verdict=verdict, differing=tuple(differing), headless=headless)


def _shapes(records: Iterable[TensorRecord]) -> dict[str, tuple[int, ...]]:
    return {record.name: record.shape for record in records if record.part is not Part.HEAD}


def _root(domain: str, records: Iterable[TensorRecord]) -> str:
    from blake3 import blake3

    hasher = blake3()
    for piece in _framed(domain, records):
        hasher.update(len(piece).to_bytes(8, "little"))
        hasher.update(piece)
    return hasher.hexdigest()


def _framed(domain: str, records: Iterable[TensorRecord]) -> Iterator[bytes]:
    """Yield what is hashed; each piece gets its length in front, so no two inputs look alike."""
    yield b"promptreg:bfp1:" + domain.encode()
    for record in records:
        yield record.name.encode()
        yield record.dtype.encode()
        yield ",".join(map(str, record.shape)).encode()
        yield bytes.fromhex(record.digest)
