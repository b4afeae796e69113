"""Tensors as numpy arrays, for the few steps that look at numbers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from promptreg.errors import InvalidArtifactError
from promptreg.prompts import Tensor

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["check_finite", "from_array", "join_tensors", "split_tensor", "to_array"]

# The bits of an element that are all ones in NaN and infinity and in no number, and those of NaN alone.
_EXPONENTS = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
_FRACTIONS = {"F32": 0x007FFFFF, "F16": 0x03FF, "BF16": 0x007F}


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Return if all elements are numbers.

    Raises:
        InvalidArtifactError: One is NaN or infinite; the first is named.
    """
    for name, tensor in tensors.items():
        found = _first_not_finite(tensor)
        if found is not None:
            value, index = found
            raise InvalidArtifactError(
                where,
                f"the tensor {name!r} holds {value} at {list(index)}",
                "the training diverged: take an earlier checkpoint, or train again with a lower "
                "learning rate",
            )


def to_array(tensor: Tensor) -> "NDArray[np.float32 | np.float16]":
    """Return ``tensor`` as an array; BF16, which numpy lacks, becomes float32, its values the same."""
    import numpy as np

    if tensor.dtype == "BF16":
        return (_bits(tensor).astype("<u4") << np.uint32(16)).view("<f4")
    return _bits(tensor).view("<f4" if tensor.dtype == "F32" else "<f2")


def from_array(array: "NDArray[Any]") -> Tensor:
    """Return an array of float32 or float16, in any byte order and layout, as a tensor."""
    dtype = {4: "F32", 2: "F16"}[array.dtype.itemsize]
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return Tensor(dtype=dtype, shape=tuple(array.shape), data=little.tobytes(order="C"))


def split_tensor(tensor: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Cut ``tensor`` into two equal halves along ``axis``, bit by bit."""
    import numpy as np

    first, second = np.split(_bits(tensor), 2, axis=axis)
    return _from_bits(tensor.dtype, first), _from_bits(tensor.dtype, second)


def join_tensors(first: Tensor, second: Tensor, axis: int) -> Tensor:
    """Undo ``split_tensor``."""
    import numpy as np

    return _from_bits(first.dtype, np.concatenate([_bits(first), _bits(second)], axis=axis))


def _bits(tensor: Tensor) -> "NDArray[Any]":
    """Return the elements as unsigned integers: numpy has those of any width, but no BF16."""
    import numpy as np

    bits = np.frombuffer(tensor.data, dtype="<u4" if tensor.dtype == "F32" else "<u2")
    return bits.reshape(tensor.shape)


def _from_bits(dtype: str, bits: "NDArray[Any]") -> Tensor:
    return Tensor(dtype=dtype, shape=tuple(bits.shape), data=bits.tobytes(order="C"))


def _first_not_finite(tensor: Tensor) -> tuple[str, tuple[int, ...]] | None:
    """Return the first NaN or infinity of ``tensor``, as its text and its index."""
    import numpy as np

    bits = _bits(tensor).ravel()
    exponent = bits.dtype.type(_EXPONENTS[tensor.dtype])
    bad = (bits & exponent) == exponent
    if not bad.any():
        return None
    first = int(bad.argmax())
    index = tuple(int(i) for i in np.unravel_index(first, tensor.shape))
    return ("NaN" if int(bits[first]) & _FRACTIONS[tensor.dtype] else "infinity"), index
