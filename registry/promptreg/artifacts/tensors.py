"""The tensors' object: safetensors, read under strict limits and written in one way only.

The safetensors library accepts names twice, names like ``../../x``, unknown fields, NaN and headers of any
size. What comes from strangers passes here first; what passes here, the library reads identically.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from promptreg.artifacts.arrays import check_finite
from promptreg.documents import parse_document, render_document
from promptreg.errors import InvalidArtifactError
from promptreg.prompts import Tensor

__all__ = ["MAX_FILE", "MAX_NAME", "dump_tensors", "load_metadata", "load_tensors"]

MAX_FILE = 64 * 2**20
"""The longest file that is read, in bytes."""
MAX_NAME = 128
"""The longest name of a tensor."""
_PREFIX = 8  # the header's length stands before it
_MAX_HEADER = 64 * 2**10
_MAX_METADATA = 16 * 2**10
_MAX_TENSORS = 64
_MAX_RANK = 4
_LONGEST_SHOWN = 40
_SAVE_AGAIN = "save the prompt alone with safetensors, as float32, or fetch an undamaged copy"
_KEEP_TO_LIMITS = "docs/format.md lists the limits that a prompt's tensors keep to"
_NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_NAME}}}", re.ASCII)
_WIDTHS = {"F32": 4, "BF16": 2, "F16": 2}  # in the order in which they stand in a file
_FIELDS = {"dtype", "shape", "data_offsets"}
_METADATA = "__metadata__"


def load_tensors(data: bytes, *, where: str = "the tensors") -> dict[str, Tensor]:
    """Read a safetensors file, refusing whatever a soft prompt has no need of.

    Args:
        data: The file's bytes.
        where: What to call it in an error: its path.

    Returns:
        The tensors by name, sorted.

    Raises:
        InvalidArtifactError: The file breaks a rule of docs/format.md.
    """
    try:
        header, start = _header(data)
        header.pop(_METADATA, None)
        tensors = _tensors(header, memoryview(data)[start:])
    except ValueError as error:
        raise InvalidArtifactError(where, str(error), _SAVE_AGAIN) from error
    check_finite(tensors, where)
    return tensors


def load_metadata(data: bytes, *, where: str = "the tensors") -> dict[str, str]:
    """Return the free text that a safetensors file carries beside its tensors.

    Raises:
        InvalidArtifactError: The file's header breaks a rule of docs/format.md.
    """
    try:
        header, _ = _header(data)
    except ValueError as error:
        raise InvalidArtifactError(where, str(error), _SAVE_AGAIN) from error
    return dict(header.get(_METADATA, {}))


def dump_tensors(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    where: str = "the tensors",
) -> bytes:
    """Write ``tensors`` as safetensors: the same tensors, the same bytes, wherever they came from.

    They are the bytes that the safetensors library writes, too: wider dtypes first, then by name.

    Raises:
        InvalidArtifactError: They are outside the limits of docs/format.md.
    """
    try:
        header, ordered = _layout(tensors, metadata)
    except ValueError as error:
        raise InvalidArtifactError(where, str(error), _KEEP_TO_LIMITS) from error
    check_finite(tensors, where)
    return b"".join([len(header).to_bytes(_PREFIX, "little"), header, *(t.data for t in ordered)])


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the header, its metadata checked, and where the tensors' bytes start."""
    if len(data) > MAX_FILE:
        raise ValueError(f"it is {len(data):,} bytes long, and at most {MAX_FILE:,} are read")
    length = int.from_bytes(data[:_PREFIX], "little")
    if _PREFIX + length > len(data):
        raise ValueError(f"it ends inside its header ({len(data):,} bytes in all)")
    if length > _MAX_HEADER:
        raise ValueError(f"its header is {length:,} bytes, and at most {_MAX_HEADER:,} are read")
    # The format pads with spaces, and with nothing else.
    text = data[_PREFIX : _PREFIX + length].rstrip(b" ")
    if not (text.startswith(b"{") and text.endswith(b"}")):
        raise ValueError("its header is not a JSON object")
    try:
        header = parse_document(text, limit=_MAX_HEADER)
    except ValueError as error:
        raise ValueError(f"its header cannot be read: {error}") from error
    if _METADATA in header:
        _check_metadata(header[_METADATA])
    return header, _PREFIX + length


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata is not an object of texts")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    if size > _MAX_METADATA:
        raise ValueError(f"its metadata is {size:,} bytes, and at most {_MAX_METADATA:,} are read")


def _tensors(header: Mapping[str, Any], body: memoryview) -> dict[str, Tensor]:
    _check_count(len(header))
    spans = sorted((*_entry(name, entry), name) for name, entry in header.items())
    tensors = {}
    reached = 0
    for begin, end, dtype, shape, name in spans:
        if begin != reached:
            problem = "overlaps the one before it" if begin < reached else "has a hole before it"
            raise ValueError(f"the tensor {name!r} starts at byte {begin}: it {problem}")
        if end > len(body):
            raise ValueError(f"the tensor {name!r} ends at byte {end} of {len(body)}")
        tensors[name] = Tensor(dtype=dtype, shape=shape, data=bytes(body[begin:end]))
        reached = end
    if reached != len(body):
        raise ValueError(f"{len(body) - reached:,} bytes follow its last tensor")
    return dict(sorted(tensors.items()))


def _entry(name: str, entry: object) -> tuple[int, int, str, tuple[int, ...]]:
    """Return (begin, end, dtype, shape) of one tensor, each checked against the others."""
    _check_name(name)
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        found = ", ".join(sorted(map(ascii, entry))) if isinstance(entry, dict) else "no object"
        raise ValueError(
            f"the tensor {name!r} has the fields {found[:200]}, not dtype, shape and data_offsets"
        )
    dtype, shape = entry["dtype"], _naturals(name, "shape", entry["shape"])
    _check_kind(name, dtype, shape)
    size = math.prod(shape) * _WIDTHS[dtype]
    match _naturals(name, "data_offsets", entry["data_offsets"]):
        case (begin, end) if end - begin == size:
            return begin, end, dtype, shape
        case offsets:
            raise ValueError(
                f"the tensor {name!r} is {dtype} {list(shape)}, so {size} bytes, "
                f"but its data_offsets are {str(list(offsets))[:80]}"
            )


def _naturals(name: str, field: str, found: object) -> tuple[int, ...]:
    # type(), because a JSON true is an int to isinstance
    if not isinstance(found, list) or not all(type(n) is int and n >= 0 for n in found):
        raise ValueError(f"the {field} of the tensor {name!r} is not a list of natural numbers")
    return tuple(found)


def _check_count(found: int) -> None:
    if not 1 <= found <= _MAX_TENSORS:
        raise ValueError(f"it has {found} tensors, and a prompt has 1 to {_MAX_TENSORS}")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name in {".", "..", _METADATA}:
        raise ValueError(
            f"{name[:_LONGEST_SHOWN]!a} is no tensor name: those are 1 to 128 letters, digits, '_', '.' and '-'"
        )


def _check_kind(name: str, dtype: object, shape: tuple[int, ...]) -> None:
    if not isinstance(dtype, str) or dtype not in _WIDTHS:
        raise ValueError(
            f"the tensor {name!r} is {str(dtype)[:_LONGEST_SHOWN]!r}, "
            "and a prompt's tensors are F32, F16 or BF16"
        )
    if len(shape) > _MAX_RANK:
        raise ValueError(
            f"the tensor {name!r} has {len(shape)} dimensions, and at most {_MAX_RANK} are read"
        )
    if 0 in shape:
        raise ValueError(f"the tensor {name!r} is {list(shape)}: it has no elements")


def _layout(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None
) -> tuple[bytes, list[Tensor]]:
    """Return the padded header and the tensors in the order of their bytes."""
    _check_count(len(tensors))
    ranks = {dtype: rank for rank, dtype in enumerate(_WIDTHS)}
    ordered = sorted(tensors.items(), key=lambda item: (ranks[item[1].dtype], item[0]))
    pieces = []
    if metadata:
        _check_metadata(dict(metadata))
        pieces.append(f'"{_METADATA}":'.encode() + render_document(metadata))
    reached = 0
    for name, tensor in ordered:
        _check_name(name)
        _check_kind(name, tensor.dtype, tensor.shape)
        end = reached + len(tensor.data)
        shape = ",".join(map(str, tensor.shape))
        pieces.append(
            f'"{name}":{{"dtype":"{tensor.dtype}","shape":[{shape}],'
            f'"data_offsets":[{reached},{end}]}}'.encode()
        )
        reached = end
    header = b"{" + b",".join(pieces) + b"}"
    header += b" " * (-len(header) % 8)  # so that the tensors' bytes are aligned
    if len(header) > _MAX_HEADER or _PREFIX + len(header) + reached > MAX_FILE:
        raise ValueError(f"they make a file longer than the {MAX_FILE:,} bytes that are read")
    return header, [tensor for _, tensor in ordered]
