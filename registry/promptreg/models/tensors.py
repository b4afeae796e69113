"""The digest of a tensor: of its values, not of how they are stored.

A tensor is hashed in the narrowest dtype that holds its values exactly, so a lossless widening (bf16 weights
loaded as fp32) changes nothing and any change of a value changes everything. N is how many elements it has.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["HASHED_DTYPES", "TensorDigest", "holds", "take_digest"]

HASHED_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}
"""The dtypes of weights, by torch's names, with the names that safetensors gives them, in the order tried."""

_FIRST_BLOCK = 1 << 12
_BLOCK = 1 << 22
_UPDATE = 1 << 28  # bytes: long enough that a thread that waits for Python's lock costs nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDigest:
    """What a tensor's values are.

    Attributes:
        dtype: The narrowest dtype that holds them, as safetensors writes it.
        shape: The tensor's shape.
        digest: The BLAKE3-256 of their little-endian, C-order bytes in that dtype, 64 hex digits.
    """

    dtype: str
    shape: tuple[int, ...]
    digest: str


def take_digest(
    tensor: "torch.Tensor", advance: Callable[[int], None] | None = None
) -> TensorDigest:
    """Return the digest of ``tensor``'s values.

    Args:
        tensor: Dense, of a dtype in ``HASHED_DTYPES``, on any device. Read in blocks: a contiguous tensor on
            the CPU is hashed where it lies, another one is copied a block at a time.
        advance: Called with every number of the tensor's own bytes that has been hashed.
    """
    from blake3 import blake3

    flat = tensor.detach().reshape(-1)
    dtype = _narrowest(flat)
    hasher = blake3(max_threads=blake3.AUTO)
    in_place = dtype == flat.dtype and flat.device.type == "cpu"
    for block in _blocks(flat, _UPDATE // flat.element_size() if in_place else _BLOCK):
        hasher.update(_bytes(_cast(block, dtype)))
        if advance is not None:
            advance(block.numel() * block.element_size())
    name = HASHED_DTYPES[str(dtype).removeprefix("torch.")]
    return TensorDigest(dtype=name, shape=tuple(tensor.shape), digest=hasher.hexdigest())


def holds(tensor: "torch.Tensor", dtype: "torch.dtype") -> bool:
    """Return whether ``dtype`` holds the values of ``tensor`` exactly.

    The bits decide, so -0.0 is not 0.0. A NaN is held by the dtype that it is in and, if it is a float32 whose
    lower half is zero, by bfloat16. No other holds it: devices do not agree on what a conversion makes of it.
    """
    flat = tensor.detach().reshape(-1)
    return all(_block_fits(block, dtype) for block in _blocks(flat, _BLOCK))


def _narrowest(flat: "torch.Tensor") -> "torch.dtype":
    """Return the first dtype, in the order of ``HASHED_DTYPES``, that holds the values of ``flat`` [N]."""
    import torch

    for name in HASHED_DTYPES:
        dtype: torch.dtype = getattr(torch, name)
        # Trained float32 weights fail in the first few values; nobody waits for a whole tensor to be cast.
        if dtype == flat.dtype or (holds(flat[:_FIRST_BLOCK], dtype) and holds(flat, dtype)):
            return dtype
    return flat.dtype


def _block_fits(block: "torch.Tensor", dtype: "torch.dtype") -> bool:
    """Return whether ``dtype`` holds the values of ``block`` [N] exactly."""
    import torch

    if block.dtype == dtype:
        return True
    if block.dtype == torch.float32 and dtype == torch.bfloat16:
        return not bool((_bits(block) & 0xFFFF).any())
    back = block.to(dtype).to(block.dtype)
    return torch.equal(_bits(back), _bits(block)) and not bool(block.isnan().any())


def _cast(block: "torch.Tensor", dtype: "torch.dtype") -> "torch.Tensor":
    """Return ``block`` [N] in ``dtype``, which is known to hold it."""
    import torch

    if block.dtype == dtype:
        return block
    if dtype == torch.bfloat16:
        # The upper half of a float32 is the bfloat16; a conversion would rewrite the payload of a NaN.
        upper = block.float().view(torch.int16)[1::2]
        return upper.clone(memory_format=torch.contiguous_format)
    return block.to(dtype)


def _blocks(flat: "torch.Tensor", most: int) -> Iterator["torch.Tensor"]:
    for start in range(0, flat.numel(), most):
        yield flat[start : start + most]


def _bits(block: "torch.Tensor") -> "torch.Tensor":
    import torch

    return block.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[block.element_size()])


def _bytes(block: "torch.Tensor") -> memoryview:
    """Return the bytes of ``block`` [N], in place where it is contiguous on the CPU."""
    import torch

    return block.contiguous().view(torch.uint8).cpu().numpy().data
