import math
import struct

import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from promptreg.models.tensors import holds, take_digest

WIDER = [
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.float64),
    (torch.float16, torch.float32),
    (torch.float16, torch.float64),
    (torch.float32, torch.float64),
]


def from_bits(bits: int) -> torch.Tensor:
    return torch.frombuffer(bytearray(struct.pack("<I", bits)), dtype=torch.float32)


def test_the_digest_is_that_of_the_little_endian_bytes() -> None:
    values = torch.tensor([[1.0, -2.5], [0.1, 3e38]])
    found = take_digest(values)
    assert (found.dtype, found.shape) == ("F32", (2, 2))
    assert found.digest == blake3(struct.pack("<4f", 1.0, -2.5, 0.1, 3e38)).hexdigest()


def test_the_digest_of_narrow_values_is_that_of_their_narrow_bytes() -> None:
    found = take_digest(torch.tensor([1.0, -2.5], dtype=torch.float64))
    assert found.dtype == "BF16"
    assert found.digest == blake3(bytes.fromhex("803f20c0")).hexdigest()


@pytest.mark.parametrize(("narrow", "wide"), WIDER)
def test_a_lossless_widening_has_the_same_digest(narrow: torch.dtype, wide: torch.dtype) -> None:
    values = torch.randn(100, 7, generator=torch.Generator().manual_seed(0)).to(narrow)
    assert take_digest(values.to(wide)) == take_digest(values)
    assert take_digest(values.T.to(wide).T) == take_digest(values)


@pytest.mark.parametrize(("narrow", "wide"), WIDER)
def test_a_rounded_value_has_another_digest(narrow: torch.dtype, wide: torch.dtype) -> None:
    values = torch.full((5,), math.pi, dtype=wide)
    assert take_digest(values) != take_digest(values.to(narrow))
    assert not holds(values, narrow)
    assert holds(values.to(narrow), wide)


@given(st.integers(0, 2**32 - 1))
def test_every_float32_is_hashed_in_the_first_dtype_that_holds_its_bits(bits: int) -> None:
    value = from_bits(bits)
    found = take_digest(value)
    if bits & 0xFFFF == 0:
        assert (found.dtype, found.digest) == (
            "BF16",
            blake3(struct.pack("<H", bits >> 16)).hexdigest(),
        )
    elif not math.isnan(float(value)) and fits_half(float(value)):
        assert (found.dtype, found.digest) == (
            "F16",
            blake3(struct.pack("<e", float(value))).hexdigest(),
        )
    else:
        assert (found.dtype, found.digest) == ("F32", blake3(struct.pack("<I", bits)).hexdigest())


def fits_half(value: float) -> bool:
    """Return whether float16 holds ``value``, by the struct module and not by torch."""
    try:
        return bool(struct.unpack("<e", struct.pack("<e", value))[0] == value)
    except OverflowError:
        return False


@given(st.integers(0, 2**16 - 1))
def test_every_float16_is_the_same_as_float32(bits: int) -> None:
    value = torch.frombuffer(bytearray(struct.pack("<H", bits)), dtype=torch.float16)
    if not bool(value.isnan()):
        assert take_digest(value) == take_digest(value.float())


@given(st.integers(0, 2**16 - 1))
def test_every_bfloat16_is_the_same_as_float32(bits: int) -> None:
    value = torch.frombuffer(bytearray(struct.pack("<H", bits)), dtype=torch.bfloat16)
    assert take_digest(value) == take_digest(value.float())


def test_the_two_zeros_differ() -> None:
    assert take_digest(torch.tensor([0.0])) != take_digest(torch.tensor([-0.0]))


def test_the_payload_of_a_nan_counts() -> None:
    assert take_digest(from_bits(0x7FC00000)) != take_digest(from_bits(0x7FC10000))
    assert take_digest(from_bits(0x7FC00001)).dtype == "F32"


def test_one_value_at_the_end_decides_the_dtype_of_all() -> None:
    values = torch.ones(9_000_001)
    values[-1] = 0.1
    found = take_digest(values)
    assert found.dtype == "F32"
    assert found.digest == blake3(values.view(torch.uint8).numpy().data).hexdigest()


def test_long_tensors_are_hashed_as_a_whole() -> None:
    values = torch.arange(9_000_001, dtype=torch.int32).bitwise_and_(0xFF).to(torch.float32)
    narrow = values.to(torch.bfloat16)
    assert take_digest(values).digest == blake3(narrow.view(torch.uint8).numpy().data).hexdigest()
    assert take_digest(narrow) == take_digest(values)


def test_the_layout_in_memory_does_not_count() -> None:
    values = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    columns = values.T.contiguous().T
    assert not columns.is_contiguous()
    assert take_digest(columns) == take_digest(values)
    assert take_digest(values.T) != take_digest(values)
    assert take_digest(values[::2]) == take_digest(values[::2].clone())


def test_shape_is_told_apart_from_values() -> None:
    values = torch.arange(6.0)
    one, two = take_digest(values.view(2, 3)), take_digest(values.view(3, 2))
    assert one.digest == two.digest
    assert one != two


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0)])
def test_small_tensors_are_tensors(shape: tuple[int, ...]) -> None:
    values = torch.ones(shape)
    found = take_digest(values)
    assert (found.dtype, found.shape) == ("BF16", shape)
    assert found.digest == blake3(b"\x80\x3f" * values.numel()).hexdigest()


def test_all_bytes_are_counted() -> None:
    told: list[int] = []
    take_digest(torch.ones(9_000_001), told.append)
    assert sum(told) == 4 * 9_000_001
    assert len(told) > 1


def test_flushing_denormals_changes_nothing() -> None:
    value = from_bits(0x00000001)
    expected = take_digest(value)
    torch.set_flush_denormal(True)
    try:
        assert take_digest(value) == expected
    finally:
        torch.set_flush_denormal(False)
