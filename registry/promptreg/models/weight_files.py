"""The weight files of a directory: safetensors, mapped into memory and described by their headers."""

import json
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptreg.artifacts.pickles import name_pickle
from promptreg.errors import UnreadableBaseModelError
from promptreg.models.tensors import HASHED_DTYPES

if TYPE_CHECKING:
    import torch

__all__ = ["StoredTensor", "WeightFiles"]

_DENSE = {stored: name for name, stored in HASHED_DTYPES.items()}
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_LENGTH = 8  # bytes in front of the header that say how long it is
_LONGEST_HEADER = 100_000_000  # what safetensors itself reads at most
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "C64": 64,
}  # fmt: skip
_SAVE_AGAIN = "load the model and save it again with model.save_pretrained(directory)"
_COMPLETE = "fetch the directory again, whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """Where a tensor's bytes lie.

    Attributes:
        name: Its key in the file.
        dtype: As safetensors writes it.
        shape: Its shape.
        file: The file that holds it.
        start: The first of its bytes there.
        size: How many there are.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    size: int

    @property
    def is_dense(self) -> bool:
        """Whether its elements are plain floating numbers, as weights are."""
        return self.dtype in _DENSE


class WeightFiles(Mapping[str, StoredTensor]):
    """The tensors of the weight files of a directory, by name: those that transformers would load.

    Raises:
        UnreadableBaseModelError: There are none, or they are damaged; the error says which and how.
    """

    def __init__(self, directory: Path) -> None:
        self._maps: dict[Path, mmap.mmap] = {}
        self._tensors: dict[str, StoredTensor] = {}
        for file, wanted in _shards(directory).items():
            found = self._open(file)
            if missing := sorted(wanted - found.keys()):
                reason = f"{_INDEX} says that {file.name} holds {_some(missing)}, which it does not"
                raise UnreadableBaseModelError(str(directory), reason, _COMPLETE)
            if twice := sorted(found.keys() & self._tensors.keys()):
                reason = f"{_some(twice)} lies in {file.name} and in another file too"
                raise UnreadableBaseModelError(str(directory), reason, _COMPLETE)
            self._tensors |= found

    def __getitem__(self, name: str) -> StoredTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def tensor(self, stored: StoredTensor) -> "torch.Tensor":
        """Return the dense tensor ``stored``, as it lies in the mapped file."""
        import torch

        dtype: torch.dtype = getattr(torch, _DENSE[stored.dtype])
        if not stored.size:
            return torch.empty(stored.shape, dtype=dtype)
        mapped = memoryview(self._maps[stored.file])[stored.start : stored.start + stored.size]
        flat = torch.frombuffer(mapped, dtype=torch.uint8)
        if flat.data_ptr() % dtype.itemsize:
            flat = flat.clone()
        return flat.view(dtype).reshape(stored.shape)

    def _open(self, file: Path) -> dict[str, StoredTensor]:
        try:
            with file.open("rb") as stream:
                # A private mapping: torch wants memory that it could write to, and the file stays as it is.
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:  # a ValueError: an empty file cannot be mapped
            reason = "it is empty" if isinstance(error, ValueError) else error.strerror
            raise UnreadableBaseModelError(str(file), str(reason), _COMPLETE) from error
        self._maps[file] = mapped
        try:
            return {tensor.name: tensor for tensor in _parse(mapped, file)}
        except ValueError as error:
            pickled = name_pickle(mapped[:4096], mapped[-4096:])
            reason = (
                f"it is {pickled}, which runs code when it is loaded" if pickled else str(error)
            )
            remedy = f"where you trust it, {_SAVE_AGAIN}" if pickled else _COMPLETE
            raise UnreadableBaseModelError(str(file), reason, remedy) from error


def _shards(directory: Path) -> dict[Path, set[str]]:
    """Return the weight files that transformers would load, each with the keys that the index promises."""
    if (directory / _SINGLE).is_file():
        return {directory / _SINGLE: set()}
    if not (directory / _INDEX).is_file():
        raise _no_weights(directory)
    shards: dict[Path, set[str]] = {}
    for key, name in _weight_map(directory).items():
        shards.setdefault(directory / name, set()).add(key)
    if missing := sorted(file.name for file in shards if not file.is_file()):
        reason = f"{_INDEX} names {_some(missing)}, which is not there"
        raise UnreadableBaseModelError(str(directory), reason, _COMPLETE)
    return dict(sorted(shards.items()))


def _weight_map(directory: Path) -> dict[str, str]:
    try:
        weight_map = json.loads((directory / _INDEX).read_bytes())["weight_map"]
        names = set(weight_map.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{_INDEX} is no index of weights"
        raise UnreadableBaseModelError(str(directory), reason, _COMPLETE) from error
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        reason = f"{_INDEX} names files outside of the directory, or none"
        raise UnreadableBaseModelError(str(directory), reason, _COMPLETE)
    return dict(weight_map)


def _no_weights(directory: Path) -> UnreadableBaseModelError:
    """Return the error for a directory without weights, by what lies there instead."""
    names = sorted(path.name for path in directory.iterdir())
    for suffixes, kind, remedy in _OTHER_WEIGHTS:
        if found := [name for name in names if name.endswith(suffixes)]:
            reason = f"there is no {_SINGLE}; found {_some(found)}, {kind}"
            return UnreadableBaseModelError(str(directory), reason, remedy)
    reason = f"there is no {_SINGLE} and no {_INDEX}"
    remedy = "give a directory that model.save_pretrained(directory) wrote"
    return UnreadableBaseModelError(str(directory), reason, remedy)


_OTHER_WEIGHTS = (
    (
        ("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"),
        "a PEFT adapter and no base model",
        "give the directory of the base model that adapter_config.json names",
    ),
    ((".bin", ".pt", ".pth", ".ckpt"), "a pickle", f"where you trust it, {_SAVE_AGAIN}"),
    (
        (".gguf",),
        "whose weights are quantised as a rule",
        f"give the directory of the model that it was made from, or {_SAVE_AGAIN}",
    ),
    ((".h5", ".msgpack"), "weights of another framework", _SAVE_AGAIN),
    ((".safetensors",), "a name that transformers does not load by itself", _SAVE_AGAIN),
)


def _parse(mapped: mmap.mmap, file: Path) -> Iterator[StoredTensor]:
    """Yield the tensors that a file's header describes.

    Raises:
        ValueError: It is no safetensors file, or a damaged one.
    """
    length = int.from_bytes(mapped[:_LENGTH], "little")
    start = _LENGTH + length
    if len(mapped) < _LENGTH or length > _LONGEST_HEADER or start > len(mapped):
        raise ValueError("it is no safetensors file, or it was cut short")
    try:
        header = json.loads(mapped[_LENGTH:start], object_pairs_hook=_unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError("its header is not JSON") from error
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")  # noqa: TRY004
    header.pop("__metadata__", None)
    tensors = [_tensor(name, entry, start, file) for name, entry in header.items()]
    _check_cover(tensors, start, len(mapped))
    yield from tensors


def _tensor(name: str, entry: Any, data: int, file: Path) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
        bits = math.prod(shape) * _BITS[dtype]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its header does not describe {name!r} as safetensors does") from error
    if (
        any(type(number) is not int or number < 0 for number in numbers)
        or bits != (end - begin) * 8
    ):
        raise ValueError(f"its header gives {name!r} a size that does not fit its shape")
    return StoredTensor(
        name=name, dtype=dtype, shape=tuple(shape), file=file, start=data + begin, size=end - begin
    )


def _check_cover(tensors: Iterable[StoredTensor], start: int, end: int) -> None:
    """Raise ValueError unless the tensors fill a file's data without a hole or an overlap."""
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.size)):
        if tensor.start != start:
            raise ValueError(f"there is a hole or an overlap in front of {tensor.name!r}")
        start += tensor.size
    if start != end:
        cut = "it was cut short" if start > end else "there are bytes that its header does not name"
        raise ValueError(f"{cut}: its header describes {start:,} bytes, and there are {end:,}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(entries := dict(pairs)) < len(pairs):
        raise ValueError("its header names a tensor twice")
    return entries


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
