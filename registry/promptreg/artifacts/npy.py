"""An array [P, H], as T5X and the paper's prompt-tuning library keep a prompt: ``.npy``, or no extension."""

import io
import math
import re
from typing import TYPE_CHECKING

from promptreg.artifacts.arrays import check_finite, from_array, to_array
from promptreg.artifacts.formats import Format, Rendering, left_out, refuse_all_but_rows
from promptreg.artifacts.found import Found
from promptreg.bases import BaseModel
from promptreg.errors import InvalidArtifactError
from promptreg.layouts import PROMPT_EMBEDDINGS
from promptreg.prompts import Method, SoftPrompt, Tensor

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

__all__ = ["NpyFormat", "array_bytes"]

_MAGIC = b"\x93NUMPY"
_DIMENSIONS = 2
_SAVE_AGAIN = "save one prompt with numpy.save, as a float32 array [tokens, width]"
_MAX_HEADER = 4096
_HEADER_STARTS = {b"\x01\x00": 10, b"\x02\x00": 12, b"\x03\x00": 12}
# numpy evaluates this text as Python; three known entries need no interpreter.
_VALUE = r"(?:'[^'\\]*'|True|False|\([0-9L, ]*\)|\[[^\]]*\])"
_ENTRY = rf"'(descr|fortran_order|shape)' *: *({_VALUE})[ \n]*"
_HEADER = re.compile(rf"\{{ *{_ENTRY}, *{_ENTRY}, *{_ENTRY}(?:,[ \n]*)?\}}[ \n]*")
_DTYPE = re.compile(r"'([<>=|])?f([24])'")
_LENGTH = re.compile(r" *(0|[1-9][0-9]{0,11})L? *")


class NpyFormat(Format):
    """A prompt that is nothing but its numbers."""

    name = "npy"

    def _detect(self, found: Found) -> bool:
        return found.data.startswith(_MAGIC)

    def _read(self, found: Found) -> SoftPrompt:
        where = str(found)
        try:
            tensor = _read_array(found.data)
        except ValueError as error:
            raise InvalidArtifactError(where, str(error), _SAVE_AGAIN) from error
        check_finite({PROMPT_EMBEDDINGS: tensor}, where)
        return SoftPrompt(
            method=Method.PROMPT_TUNING,
            tensors={PROMPT_EMBEDDINGS: tensor},
            num_virtual_tokens=tensor.shape[0],
            token_dim=tensor.shape[1],
            source_format=self.name,
        )

    def _render(self, prompt: SoftPrompt, base: BaseModel | None, name: str) -> Rendering:
        del base, name  # an array has no place for them
        refuse_all_but_rows(prompt, "npy")
        tensor = prompt.tensors[PROMPT_EMBEDDINGS]
        notes = []
        if tensor.dtype == "BF16":
            notes.append(
                "numpy has no bfloat16: the numbers are written as float32, each unchanged"
            )
        rest = left_out(prompt)
        if rest:
            notes.append(f"an .npy file holds the numbers alone: it leaves out {', '.join(rest)}")
        files = {"prompt.npy": array_bytes(to_array(tensor))}
        return Rendering(files=files, directory=False, notes=tuple(notes))


def array_bytes(array: "NDArray[Any]") -> bytes:
    """Return ``array`` as numpy saves it, byte for byte."""
    from numpy.lib import format as npy

    file = io.BytesIO()
    npy.write_array(file, array, version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _read_array(data: bytes) -> Tensor:
    """Read [P, H] from an .npy file; nothing in it is evaluated, let alone unpickled."""
    import numpy as np

    dtype, fortran, shape, start = _read_header(data)
    if len(shape) != _DIMENSIONS:
        raise ValueError(f"its shape is {list(shape)}, and [tokens, width] was expected")
    if 0 in shape:
        raise ValueError(f"its shape is {list(shape)}: it has no elements")
    wanted = math.prod(shape) * np.dtype(dtype).itemsize
    if len(data) - start != wanted:
        raise ValueError(
            f"{len(data) - start} bytes follow its header, and its shape says {wanted}"
        )
    flat = np.frombuffer(data, dtype=dtype, offset=start)
    return from_array(flat.reshape(shape, order="F" if fortran else "C"))


def _read_header(data: bytes) -> tuple[str, bool, tuple[int, ...], int]:
    """Return (dtype, whether in Fortran order, shape, where the numbers start)."""
    text_start = _HEADER_STARTS.get(data[6:8])
    if text_start is None:
        raise ValueError("its version of .npy is unknown")
    length = int.from_bytes(data[8:text_start], "little")
    if length > _MAX_HEADER:
        raise ValueError(f"its header is {length:,} bytes, and at most {_MAX_HEADER:,} are read")
    start = text_start + length
    text = data[text_start:start].decode("latin-1")
    match = _HEADER.fullmatch(text)
    if match is None:
        raise ValueError("its header does not say descr, fortran_order and shape")
    entries = dict(zip(match.groups()[::2], match.groups()[1::2], strict=True))
    if len(entries) * 2 != len(match.groups()):
        raise ValueError("its header says one thing twice")
    return (
        _dtype(entries["descr"]),
        _boolean(entries["fortran_order"]),
        _shape(entries["shape"]),
        start,
    )


def _dtype(text: str) -> str:
    match = _DTYPE.fullmatch(text)
    if match is None:
        raise ValueError(f"its dtype is {text[:40]}, and a prompt is '<f4' or '<f2'")
    order = match[1] if match[1] in {"<", ">"} else "<"
    return f"{order}f{match[2]}"


def _boolean(text: str) -> bool:
    if text not in {"True", "False"}:
        raise ValueError(f"its fortran_order is {text[:40]}, and True or False was expected")
    return text == "True"


def _shape(text: str) -> tuple[int, ...]:
    lengths = text[1:-1].split(",")
    if not lengths[-1].strip():  # after one length, and after the last, a comma stands alone
        lengths.pop()
    matches = [_LENGTH.fullmatch(length) for length in lengths]
    if not text.startswith("(") or None in matches:
        raise ValueError(f"its shape is {text[:40]}, and (tokens, width) was expected")
    return tuple(int(match[1]) for match in matches if match)
