import json
import struct
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_with_library
from safetensors.torch import save as save_with_library

from prompt_examples import raw_safetensors, tensor
from promptreg.artifacts import dump_tensors, load_tensors
from promptreg.artifacts.tensors import load_metadata
from promptreg.errors import InvalidArtifactError
from promptreg.prompts import Tensor

ENTRY = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}
TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidArtifactError) as caught:
        load_tensors(data, where="x.safetensors")
    message = str(caught.value)
    assert message.startswith("x.safetensors: ")
    assert "; " in message, "a refusal says what mends it"
    assert len(message) < 600
    return message


class TestWhatIsWritten:
    def test_is_read_back(self) -> None:
        tensors = {
            "b": tensor(2, 3),
            "a": tensor(3, dtype="F16"),
            "c": tensor(1, 2, 2, 1, dtype="BF16"),
        }
        assert load_tensors(dump_tensors(tensors)) == tensors

    def test_is_the_same_whatever_order_the_tensors_come_in(self) -> None:
        a, b = tensor(2, 3), tensor(3, seed=1)
        assert dump_tensors({"a": a, "b": b}) == dump_tensors({"b": b, "a": a})

    def test_is_what_the_safetensors_library_writes(self) -> None:
        ours = {
            "b": tensor(2, 3),
            "aa": tensor(3, dtype="F16"),
            "a": tensor(1, dtype="F16"),
            "c": tensor(1, 2, dtype="BF16"),
        }
        theirs = {name: as_torch(each) for name, each in ours.items()}
        assert dump_tensors(ours) == save_with_library(theirs)
        metadata = {"format": "pt"}
        assert dump_tensors(ours, metadata) == save_with_library(theirs, metadata)

    def test_starts_its_tensors_at_a_multiple_of_eight_bytes(self) -> None:
        for length in range(1, 9):
            data = dump_tensors({"x" * length: tensor(2)})
            assert int.from_bytes(data[:8], "little") % 8 == 0

    def test_has_a_name_that_never_changes(self) -> None:
        # The digest of an object stands in every registry: these bytes are for ever.
        numbers = Tensor(dtype="F32", shape=(1, 2), data=struct.pack("<2f", 1.0, -2.0))
        header = b'{"prompt_embeddings":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
        assert dump_tensors({"prompt_embeddings": numbers}) == (
            struct.pack("<Q", len(header)) + header + numbers.data
        )

    @pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\0", "é", "x" * 129, "a\n"])
    def test_is_refused_with_a_name_that_could_not_be_read(self, name: str) -> None:
        with pytest.raises(InvalidArtifactError, match="no tensor name"):
            dump_tensors({name: tensor(2)})

    def test_is_refused_if_there_are_too_many_or_none(self) -> None:
        with pytest.raises(InvalidArtifactError, match="has 0 tensors"):
            dump_tensors({})
        with pytest.raises(InvalidArtifactError, match="has 65 tensors"):
            dump_tensors({str(n): tensor(1) for n in range(65)})

    def test_is_refused_with_a_number_that_is_none(self) -> None:
        bad = Tensor(dtype="F32", shape=(1, 2), data=struct.pack("<2f", 1.0, float("nan")))
        with pytest.raises(InvalidArtifactError, match=r"'x' holds NaN at \[0, 1\]"):
            dump_tensors({"x": bad})

    def test_is_refused_if_it_is_longer_than_what_is_read(self) -> None:
        half = Tensor(dtype="F16", shape=(16 * 2**20,), data=bytes(32 * 2**20))
        with pytest.raises(InvalidArtifactError, match="longer than"):
            dump_tensors({"a": half, "b": half})


class TestAttacks:
    def test_a_file_cut_short_at_any_byte(self) -> None:
        data = dump_tensors({"prompt_embeddings": tensor(2, 3)})
        for length in range(len(data)):
            refusal(data[:length])

    def test_bytes_after_the_last_tensor(self) -> None:
        assert "1 bytes follow its last tensor" in refusal(dump_tensors({"x": tensor(2)}) + b"\0")

    def test_a_header_longer_than_the_file(self) -> None:
        assert "ends inside its header" in refusal(struct.pack("<Q", 2**63) + b"{}")

    def test_a_header_longer_than_a_prompt_needs(self) -> None:
        header = json.dumps({"x": ENTRY}).encode().ljust(64 * 2**10 + 1)
        assert "header is 65,537 bytes" in refusal(raw_safetensors(header, bytes(8)))

    def test_a_file_longer_than_a_prompt_needs(self) -> None:
        assert "67,108,865 bytes long" in refusal(bytes(64 * 2**20 + 1))

    def test_metadata_longer_than_a_prompt_needs(self) -> None:
        header = {"__metadata__": {"note": "x" * 16 * 2**10}, "x": ENTRY}
        assert "metadata is 16,388 bytes" in refusal(raw_safetensors(header))

    @pytest.mark.parametrize("metadata", [None, [], "text", {"a": 1}, {"a": None}, {"a": {}}])
    def test_metadata_that_is_not_texts(self, metadata: object) -> None:
        assert "metadata" in refusal(raw_safetensors({"__metadata__": metadata, "x": ENTRY}))

    def test_no_tensors_at_all(self) -> None:
        assert "has 0 tensors" in refusal(raw_safetensors({}))
        assert "has 0 tensors" in refusal(raw_safetensors({"__metadata__": {"a": "b"}}))

    def test_three_hundred_tensors(self) -> None:
        header = {
            str(n): {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]}
            for n in range(300)
        }
        assert "has 300 tensors" in refusal(raw_safetensors(header))

    def test_a_name_that_stands_twice(self) -> None:
        entry = json.dumps(ENTRY)
        header = f'{{"x":{entry},"x":{entry}}}'.encode()
        assert "'x' stands twice" in refusal(raw_safetensors(header, bytes(8)))

    def test_a_name_that_stands_twice_in_two_spellings(self) -> None:
        entry = json.dumps(ENTRY)
        header = f'{{"x":{entry},"\\u0078":{entry}}}'.encode()
        assert "'x' stands twice" in refusal(raw_safetensors(header, bytes(8)))

    def test_a_field_that_stands_twice(self) -> None:
        header = b'{"x":{"dtype":"F32","dtype":"F16","shape":[1,2],"data_offsets":[0,8]}}'
        assert "'dtype' stands twice" in refusal(raw_safetensors(header, bytes(8)))

    @pytest.mark.parametrize(
        "name", ["../../x", "/etc/passwd", "a\0b", "", ".", "..", "x" * 129, "a b", "é", "x\n"]
    )
    def test_a_name_that_is_a_path_or_worse(self, name: str) -> None:
        assert "no tensor name" in refusal(raw_safetensors({name: ENTRY}, bytes(8)))

    @pytest.mark.parametrize("entry", [None, [], 1, "x", {}, ENTRY | {"more": 1}, {"dtype": "F32"}])
    def test_an_entry_with_other_fields(self, entry: object) -> None:
        assert "not dtype, shape and data_offsets" in refusal(
            raw_safetensors({"x": entry}, bytes(8))
        )

    @pytest.mark.parametrize(
        "dtype", ["F64", "I64", "I32", "U8", "BOOL", "F8_E4M3", "f32", "", 1, None, ["F32"]]
    )
    def test_a_dtype_that_no_prompt_has(self, dtype: object) -> None:
        message = refusal(raw_safetensors({"x": ENTRY | {"dtype": dtype}}, bytes(8)))
        assert "F32, F16 or BF16" in message

    @pytest.mark.parametrize(
        "shape", [None, 2, "12", {}, [1.0, 2], [-1, -2], [True, 2], ["1", 2], [[1], 2], [None]]
    )
    def test_a_shape_that_is_not_natural_numbers(self, shape: object) -> None:
        message = refusal(raw_safetensors({"x": ENTRY | {"shape": shape}}, bytes(8)))
        assert "shape of the tensor 'x' is not a list of natural numbers" in message

    def test_a_shape_with_a_zero(self) -> None:
        entry = {"dtype": "F32", "shape": [0, 2], "data_offsets": [0, 0]}
        assert "no elements" in refusal(raw_safetensors({"x": entry}))

    def test_five_dimensions(self) -> None:
        assert "5 dimensions" in refusal(
            raw_safetensors({"x": ENTRY | {"shape": [1, 1, 1, 1, 2]}}, bytes(8))
        )

    def test_a_product_that_wraps_around_in_64_bits(self) -> None:
        entry = {"dtype": "F32", "shape": [2**32, 2**32, 1, 2], "data_offsets": [0, 0]}
        assert "its data_offsets are [0, 0]" in refusal(raw_safetensors({"x": entry}, b""))

    @pytest.mark.parametrize("digits", ["9" * 21, "9" * 5000])
    def test_an_integer_of_any_length(self, digits: str) -> None:
        header = f'{{"x":{{"dtype":"F32","shape":[{digits}],"data_offsets":[0,8]}}}}'.encode()
        assert "too large" in refusal(raw_safetensors(header, bytes(8)))

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-0", "0x8", "08"])
    def test_a_number_that_readers_disagree_on(self, number: str) -> None:
        header = f'{{"x":{{"dtype":"F32","shape":[1,2],"data_offsets":[{number},8]}}}}'.encode()
        assert "header cannot be read" in refusal(raw_safetensors(header, bytes(8)))

    @pytest.mark.parametrize(
        "offsets", [[0], [0, 8, 16], [8, 0], [0, 4], [0, 12], [0.0, 8], [False, 8], [-8, 0], "08"]
    )
    def test_offsets_that_lie(self, offsets: object) -> None:
        message = refusal(raw_safetensors({"x": ENTRY | {"data_offsets": offsets}}, bytes(16)))
        assert "data_offsets" in message

    def test_an_overlap(self) -> None:
        header = {"x": ENTRY, "y": ENTRY | {"data_offsets": [4, 12]}}
        assert "overlaps" in refusal(raw_safetensors(header, bytes(12)))

    def test_two_tensors_in_one_place(self) -> None:
        assert "overlaps" in refusal(raw_safetensors({"x": ENTRY, "y": ENTRY}, bytes(8)))

    def test_a_hole(self) -> None:
        header = {"x": ENTRY, "y": ENTRY | {"data_offsets": [12, 20]}}
        assert "hole" in refusal(raw_safetensors(header, bytes(20)))
        assert "hole" in refusal(
            raw_safetensors({"x": ENTRY | {"data_offsets": [4, 12]}}, bytes(12))
        )

    def test_offsets_past_the_end(self) -> None:
        assert "ends at byte 8 of 4" in refusal(raw_safetensors({"x": ENTRY}, bytes(4)))

    @pytest.mark.parametrize(
        "header",
        [
            b"",
            b"[]",
            b"null",
            b" {}",
            b"\xef\xbb\xbf{}",
            b'{"x":',
            b"{}}",
            b"{}\0",
            b"{}\n",
            b'{"\xff":1}',
            b'{"\\ud800":1}',
            b'{"__metadata__":{"a":"\\udfff"}}',
            b'{"x":' * 2000 + b"1" + b"}" * 2000,
            b'{"x":' + b"[" * 60_000 + b"]" * 5000 + b"}",
        ],
    )
    def test_a_header_that_is_no_plain_json(self, header: bytes) -> None:
        assert "header" in refusal(raw_safetensors(header, bytes(8)))

    @pytest.mark.parametrize(
        ("dtype", "bits", "value"),
        [
            ("F32", struct.pack("<f", float("nan")), "NaN"),
            ("F32", b"\x01\x00\x80\xff", "NaN"),
            ("F32", struct.pack("<f", float("inf")), "infinity"),
            ("F32", struct.pack("<f", float("-inf")), "infinity"),
            ("F16", b"\x00\x7c", "infinity"),
            ("F16", b"\x01\xfc", "NaN"),
            ("BF16", b"\x80\xff", "infinity"),
            ("BF16", b"\xc0\x7f", "NaN"),
        ],
    )
    def test_a_number_that_is_none(self, dtype: str, bits: bytes, value: str) -> None:
        width = len(bits)
        header = {
            "good": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2 * width]},
            "bad": {"dtype": dtype, "shape": [2, 3], "data_offsets": [2 * width, 8 * width]},
        }
        body = bytes(2 * width) + bytes(4 * width) + bits + bits
        message = refusal(raw_safetensors(header, body))
        assert f"the tensor 'bad' holds {value} at [1, 1]" in message
        assert "diverged" in message

    def test_the_largest_and_smallest_numbers_are_numbers(self) -> None:
        extremes = struct.pack("<4I", 0x7F7FFFFF, 0xFF7FFFFF, 0x00000001, 0x80000000)
        tensors = {"x": Tensor(dtype="F32", shape=(4,), data=extremes)}
        assert load_tensors(dump_tensors(tensors)) == tensors


class TestWhatOthersWrite:
    def test_tensors_may_be_listed_in_any_order(self) -> None:
        header = {"y": ENTRY | {"data_offsets": [8, 16]}, "x": ENTRY}
        found = load_tensors(raw_safetensors(header, bytes(8) + b"\1" * 8))
        assert found["y"].data == b"\1" * 8

    def test_the_header_may_be_padded_with_spaces(self) -> None:
        header = json.dumps({"x": ENTRY}).encode() + b" " * 13
        assert list(load_tensors(raw_safetensors(header, bytes(8)))) == ["x"]

    def test_metadata_is_read_apart(self) -> None:
        data = raw_safetensors({"__metadata__": {"format": "pt", "by": "é"}, "x": ENTRY})
        assert load_metadata(data) == {"format": "pt", "by": "é"}
        assert list(load_tensors(data)) == ["x"]
        assert load_metadata(raw_safetensors({"x": ENTRY})) == {}


def as_torch(each: Tensor) -> torch.Tensor:
    return torch.frombuffer(bytearray(each.data), dtype=TORCH[each.dtype]).reshape(each.shape)


def agrees_with_the_library(data: bytes, ours: Mapping[str, Tensor]) -> bool:
    theirs = load_with_library(data)
    return theirs.keys() == ours.keys() and all(
        found.dtype == TORCH[ours[name].dtype]
        and tuple(found.shape) == ours[name].shape
        and found.reshape(-1).view(torch.uint8).numpy().tobytes() == ours[name].data
        for name, found in theirs.items()
    )


@st.composite
def some_tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    names = st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True).filter(
        lambda name: name not in {".", "..", "__metadata__"}
    )
    tensors = {}
    for name in draw(st.lists(names, min_size=1, max_size=5, unique=True)):
        shape = tuple(draw(st.lists(st.integers(1, 4), max_size=4)))
        tensors[name] = tensor(
            *shape, dtype=draw(st.sampled_from(sorted(TORCH))), seed=draw(st.integers(0, 99))
        )
    return tensors


@settings(deadline=None)
@given(tensors=some_tensors())
def test_whatever_is_written_is_read_back_by_us_and_by_the_library(
    tensors: dict[str, Tensor],
) -> None:
    data = dump_tensors(tensors)
    assert load_tensors(data) == tensors
    assert agrees_with_the_library(data, tensors)


# Pieces that steer a mutation to places where parsers differ.
_SPICE = [b"0", b"-", b"1e2", b'"', b"{", b"}", b"[", b"]", b",", b":", b" ", b"\\u0000", b"\xff"]


@settings(deadline=None)
@given(
    tensors=some_tensors(),
    edits=st.lists(
        st.tuples(
            st.integers(0, 400), st.integers(0, 3), st.sampled_from(_SPICE) | st.binary(max_size=3)
        ),
        min_size=1,
        max_size=3,
    ),
    keep_length=st.booleans(),
)
def test_mutated_bytes_are_refused_or_read_as_the_library_reads_them(
    tensors: dict[str, Tensor], edits: list[tuple[int, int, bytes]], keep_length: bool
) -> None:
    data = dump_tensors(tensors, {"format": "pt"})
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    for at, cut, new in edits:
        header = header[:at] + new + header[at + cut :]
    prefix = data[:8] if keep_length else len(header).to_bytes(8, "little")
    mutated = prefix + header + body
    try:
        found = load_tensors(mutated)
    except InvalidArtifactError:
        return
    assert agrees_with_the_library(mutated, found)


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    header=st.dictionaries(
        st.sampled_from(["x", "y", "__metadata__", "../x"]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F16", "F64"]) | _JSON,
                "shape": st.lists(st.integers(-1, 3), max_size=3) | _JSON,
                "data_offsets": st.lists(st.integers(-1, 16), max_size=3) | _JSON,
            }
        )
        | _JSON,
        max_size=3,
    ),
    body=st.binary(max_size=24),
)
def test_any_header_is_refused_or_read_as_the_library_reads_it(
    header: dict[str, Any], body: bytes
) -> None:
    data = raw_safetensors(header, body)
    try:
        found = load_tensors(data)
    except InvalidArtifactError:
        return
    assert agrees_with_the_library(data, found)


@settings(deadline=None)
@given(data=st.binary(max_size=64))
def test_any_bytes_at_all_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidArtifactError):
        load_tensors(data)
