"""Fingerprints: what base model this is, by its weights. Pure values: nothing here needs torch.

The scheme ``bfp1`` is specified in docs/format.md. In short: a record for every weight (canonical name,
dtype, shape, BLAKE3-256 of its bytes), sorted by name, length-prefixed, hashed under a domain tag. The same
construction over a part of the records gives that part's digest.
"""

import itertools
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
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
    """One weight of a base model: a parameter, or a buffer that is loaded with the parameters.

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
    """The records of all weights of a base model, sorted by name; from them all digests follow.

    Attributes:
        records: One record a weight; a weight that is used twice has one record.
        tied: The weights of the head that are used a second time, each with the record's name that holds its
            values: ``("lm_head.weight", "embed_tokens.weight")``, sorted. No digest covers it: whether a
            model was loaded with its tied head or without one changes nothing; ``compare`` needs it to tell a
            tied head from another one.

    Raises:
        ValueError: There are none, two have the same name, or a tied one has no record.
    """

    records: tuple[TensorRecord, ...] = field(repr=False)
    tied: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        held = {record.name for record in self.records}
        names = [record.name for record in self.records] + [name for name, _ in self.tied]
        if not held:
            raise ValueError("a base model has at least one weight")
        if len(set(names)) != len(names):
            raise ValueError("two weights of a base model have the same name")
        if any(source not in held for _, source in self.tied):
            raise ValueError("a tied weight of a base model names a weight that is not there")
        ordered = tuple(sorted(self.records, key=lambda record: record.name.encode()))
        object.__setattr__(self, "records", ordered)
        object.__setattr__(self, "tied", tuple(sorted(self.tied)))

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The identity of the base model, over all its weights."""
        return Fingerprint(f"bfp1:{_root('all', self.records)}")

    def part(self, part: Part) -> str | None:
        """Return the digest of ``part``, 64 hex digits, or None if the base model has no such part."""
        records = [record for record in self.records if record.part is part]
        return _root(part.value, records) if records else None

    def to_bytes(self) -> bytes:
        """Return the table as canonical JSON, the bytes that are stored as an object."""
        rows = [[r.name, r.part.value, r.dtype, list(r.shape), r.digest] for r in self.records]
        document = {"scheme": "bfp1", "tensors": rows, "tied": self.tied}
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
            tied = tuple((str(name), str(source)) for name, source in document.get("tied", ()))
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no table of weights: {error}") from error
        return cls(records=records, tied=tied)


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


def compare(
    expected: WeightTable, actual: WeightTable, *, replaced: Collection[str] = ()
) -> Comparison:
    """Compare the base model that a prompt was trained on with the one at hand.

    A head that only one of the two has (a model loaded as its backbone alone, or one with a new classifier
    on the same backbone) is no difference: the prompt acts on the backbone. A head that both have must agree,
    whether it is tied or not.

    Args:
        expected: The base model that the prompt was trained on.
        actual: The base model at hand.
        replaced: Canonical names of head weights that the prompt brings itself: a classifier that was trained
            with it takes the place of whatever both models have there.
    """
    wanted, found = _all(expected), _all(actual)
    headless = False
    differing = []
    for name in sorted(wanted.keys() | found.keys()):
        mine, other = wanted.get(name), found.get(name)
        present = mine or other
        if present is not None and present.part is Part.HEAD:
            if name in replaced:
                continue
            if mine is None or other is None:
                headless = True
                continue
        if mine != other:
            differing.append(name)
    if not differing:
        return Comparison(verdict=Verdict.EXACT, headless=headless)
    if _shapes(expected.records) != _shapes(actual.records):
        verdict = Verdict.INCOMPATIBLE
    elif expected.part(Part.EMBEDDING) == actual.part(Part.EMBEDDING):
        verdict = Verdict.SAME_EMBEDDING
    else:
        verdict = Verdict.SAME_SHAPE
    return Comparison(verdict=verdict, differing=tuple(differing), headless=headless)


def _all(table: WeightTable) -> dict[str, TensorRecord]:
    """Return every weight by name, a tied one with the values of what it is tied to."""
    records = {record.name: record for record in table.records}
    tied = {
        name: replace(records[source], name=name, part=Part.HEAD) for name, source in table.tied
    }
    return records | tied


def _shapes(records: Iterable[TensorRecord]) -> dict[str, tuple[int, ...]]:
    return {record.name: record.shape for record in records if record.part is not Part.HEAD}


def _root(domain: str, records: Iterable[TensorRecord]) -> str:
    from blake3 import blake3

    # Each field gets its length in front, so that no two lists of records look alike.
    framed = [
        len(field).to_bytes(8, "little") + field
        for field in itertools.chain([f"promptreg:bfp1:{domain}".encode()], *map(_fields, records))
    ]
    return blake3(b"".join(framed)).hexdigest()


def _fields(record: TensorRecord) -> tuple[bytes, ...]:
    return (
        record.name.encode(),
        record.dtype.encode(),
        ",".join(map(str, record.shape)).encode(),
        bytes.fromhex(record.digest),
    )
