import hashlib
import json
from dataclasses import replace

import pytest
from blake3 import blake3

from promptreg.fingerprints import (
    Comparison,
    Fingerprint,
    Part,
    TensorRecord,
    Verdict,
    WeightTable,
    compare,
)


def record(
    name: str, part: Part, content: bytes = b"", shape: tuple[int, ...] = (2, 3)
) -> TensorRecord:
    digest = hashlib.sha256(name.encode() + content).hexdigest()
    return TensorRecord(name=name, part=part, dtype="BF16", shape=shape, digest=digest)


EMBEDDING = record("embed_tokens.weight", Part.EMBEDDING)
FIRST = record("layers.0.weight", Part.BODY)
SECOND = record("layers.1.weight", Part.BODY)
HEAD = record("lm_head.weight", Part.HEAD)
TABLE = WeightTable(records=(EMBEDDING, FIRST, SECOND, HEAD))
TIED = WeightTable(
    records=(EMBEDDING, FIRST, SECOND), tied=(("lm_head.weight", "embed_tokens.weight"),)
)
BACKBONE = WeightTable(records=(EMBEDDING, FIRST, SECOND))


@pytest.mark.parametrize(
    "text", ["", "bfp1:", "bfp2:" + "0" * 64, "bfp1:" + "A" * 64, "bfp1:" + "0" * 63]
)
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="reads bfp1:<64 hex digits>"):
        Fingerprint(text)


def test_a_record_needs_a_whole_digest() -> None:
    with pytest.raises(ValueError, match="64 hex digits"):
        replace(FIRST, digest="ab")


def test_the_scheme_is_the_one_that_is_written_down() -> None:
    """The example of docs/format.md, made without our code: a change here is a change of the scheme."""
    fields = [b"promptreg:bfp1:all"]
    for each in (EMBEDDING, FIRST, SECOND, HEAD):
        fields += [each.name.encode(), b"BF16", b"2,3", bytes.fromhex(each.digest)]
    framed = b"".join(len(field).to_bytes(8, "little") + field for field in fields)
    assert str(TABLE.fingerprint) == "bfp1:" + blake3(framed).hexdigest()
    assert str(TABLE.fingerprint) == PINNED


PINNED = "bfp1:9f29fcf7e6df3016fa84050c88088ee219b0858ac1cba1826817c86e709aabab"


def test_the_order_of_the_records_does_not_count() -> None:
    shuffled = WeightTable(records=(HEAD, SECOND, EMBEDDING, FIRST))
    assert shuffled == TABLE
    assert shuffled.fingerprint == TABLE.fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        replace(FIRST, name="layers.2.weight"),
        replace(FIRST, dtype="F16"),
        replace(FIRST, shape=(3, 2)),
        replace(FIRST, shape=(6,)),
        replace(FIRST, digest="0" * 64),
    ],
)
def test_every_field_of_a_record_counts(changed: TensorRecord) -> None:
    other = WeightTable(records=(EMBEDDING, changed, SECOND, HEAD))
    assert other.fingerprint != TABLE.fingerprint
    assert other.part(Part.BODY) != TABLE.part(Part.BODY)
    assert other.part(Part.EMBEDDING) == TABLE.part(Part.EMBEDDING)
    assert other.part(Part.HEAD) == TABLE.part(Part.HEAD)


def test_exchanged_values_count() -> None:
    one, two = replace(FIRST, digest=SECOND.digest), replace(SECOND, digest=FIRST.digest)
    assert WeightTable(records=(EMBEDDING, one, two, HEAD)).fingerprint != TABLE.fingerprint


def test_a_tied_head_does_not_change_the_fingerprint() -> None:
    assert TIED.fingerprint == BACKBONE.fingerprint
    assert TIED.part(Part.HEAD) is None


def test_a_table_survives_being_stored() -> None:
    for table in (TABLE, TIED, BACKBONE):
        assert WeightTable.from_bytes(table.to_bytes()) == table
    assert json.loads(TIED.to_bytes())["tied"] == [["lm_head.weight", "embed_tokens.weight"]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"scheme": "bfp2", "tensors": []}',
        b'{"scheme": "bfp1", "tensors": []}',
        b'{"scheme": "bfp1", "tensors": [["a"]]}',
        b'{"scheme": "bfp1", "tensors": 3}',
        TABLE.to_bytes().replace(b'"head"', b'"tail"'),
        TABLE.to_bytes().replace(b"layers.1", b"layers.0"),
        TIED.to_bytes().replace(b'"embed_tokens.weight"]]', b'"elsewhere"]]'),
        TIED.to_bytes().replace(b'[["lm_head.weight"', b'[["layers.0.weight"'),
    ],
)
def test_what_is_no_table_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        WeightTable.from_bytes(data)


def test_the_same_table_is_exact() -> None:
    assert compare(TABLE, TABLE) == Comparison(verdict=Verdict.EXACT)
    assert compare(TIED, TIED) == Comparison(verdict=Verdict.EXACT)


@pytest.mark.parametrize(
    ("expected", "actual"), [(TABLE, BACKBONE), (BACKBONE, TABLE), (TIED, BACKBONE)]
)
def test_a_head_that_only_one_has_is_no_difference(
    expected: WeightTable, actual: WeightTable
) -> None:
    assert compare(expected, actual) == Comparison(verdict=Verdict.EXACT, headless=True)


def test_a_tied_head_and_an_equal_one_are_no_difference() -> None:
    equal = replace(HEAD, digest=EMBEDDING.digest)
    stored = WeightTable(records=(EMBEDDING, FIRST, SECOND, equal))
    assert compare(TIED, stored) == Comparison(verdict=Verdict.EXACT)


def test_a_tied_head_and_another_one_differ() -> None:
    wanted = Comparison(verdict=Verdict.SAME_EMBEDDING, differing=("lm_head.weight",))
    assert compare(TIED, TABLE) == compare(TABLE, TIED) == wanted


def test_a_head_that_the_prompt_brings_is_not_compared() -> None:
    other = WeightTable(
        records=(EMBEDDING, FIRST, SECOND, record("lm_head.weight", Part.HEAD, b"new"))
    )
    assert compare(TABLE, other).verdict is Verdict.SAME_EMBEDDING
    assert compare(TABLE, other, replaced={"lm_head.weight"}).verdict is Verdict.EXACT


def test_a_body_is_compared_even_if_the_prompt_claims_to_bring_it() -> None:
    other = WeightTable(records=(EMBEDDING, record(FIRST.name, Part.BODY, b"new"), SECOND, HEAD))
    assert compare(TABLE, other, replaced={FIRST.name}).verdict is Verdict.SAME_EMBEDDING


def test_the_verdict_names_all_that_differs() -> None:
    first = record("layers.0.weight", Part.BODY, b"new")
    embedding = record("embed_tokens.weight", Part.EMBEDDING, b"new")
    bigger = record("layers.0.weight", Part.BODY, shape=(2, 4))
    cases = {
        WeightTable(records=(EMBEDDING, first, SECOND, HEAD)): Comparison(
            verdict=Verdict.SAME_EMBEDDING, differing=("layers.0.weight",)
        ),
        WeightTable(records=(embedding, first, SECOND, HEAD)): Comparison(
            verdict=Verdict.SAME_SHAPE, differing=("embed_tokens.weight", "layers.0.weight")
        ),
        WeightTable(records=(EMBEDDING, bigger, SECOND, HEAD)): Comparison(
            verdict=Verdict.INCOMPATIBLE, differing=("layers.0.weight",)
        ),
        WeightTable(records=(EMBEDDING, FIRST, HEAD)): Comparison(
            verdict=Verdict.INCOMPATIBLE, differing=("layers.1.weight",)
        ),
    }
    for other, comparison in cases.items():
        assert compare(TABLE, other) == comparison
