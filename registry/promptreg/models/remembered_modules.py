"""Modules that were fingerprinted before, remembered for as long as they live and nobody writes to them.

A weight's storage, its version counter and a few of its values are compared. The counter alone would not do:
``tensor.data += delta``, which is how PEFT merges an adapter, leaves it as it is; and data pointers are used
again: ``model.half().float()`` may put other values where the old ones lay.

What is not seen is a write through ``.data`` that touches few values, such as ``weight.data[7] = 0``: nothing
short of reading every row would tell, and the embedding's rows alone take longer than all the rest.
"""

import secrets
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from promptreg.bases import BaseModel

if TYPE_CHECKING:
    import torch

__all__ = ["ModuleState", "recall", "remember"]

_Places = tuple[tuple[int], tuple[int], int]
_WITNESSES = 64
# Where the witnesses lie differs by process, so that no write misses them for ever.
_OFFSET = secrets.randbelow(2**16) / 2**16


class ModuleState:
    """What the weights of a module were at one time, cheaply told.

    It holds a weak reference to each storage: the memory may be freed, but no other storage gets its identity
    while the reference is there.
    """

    def __init__(self, weights: "Sequence[tuple[str, torch.Tensor]]") -> None:
        from torch.multiprocessing import reductions

        refer: Any = reductions.StorageWeakRef
        self._storages = [refer(tensor.untyped_storage()) for _, tensor in weights]
        self._facts = _facts(weights)
        self._places = [_spread(tensor) for _, tensor in weights]
        self._witnesses = _gather(weights, self._places)
        self._watched = not any(tensor.is_inference() for _, tensor in weights)

    def holds(self, weights: "Sequence[tuple[str, torch.Tensor]]") -> bool:
        """Return whether these are the same weights, and nobody has written to them since.

        Weights that were made in inference mode have no version counter, so nobody can tell: it is False.
        """
        return (
            self._watched
            and _facts(weights) == self._facts
            and _gather(weights, self._places) == self._witnesses
        )


_remembered: "WeakKeyDictionary[torch.nn.Module, tuple[ModuleState, BaseModel]]"
_remembered = WeakKeyDictionary()
_lock = threading.Lock()


def recall(
    module: "torch.nn.Module", weights: "Sequence[tuple[str, torch.Tensor]]"
) -> BaseModel | None:
    """Return the base model that ``module`` with these weights was found to be, if it was."""
    with _lock:
        state, base = _remembered.get(module, (None, None))
    return base if state is not None and state.holds(weights) else None


def remember(module: "torch.nn.Module", state: ModuleState, base: BaseModel) -> None:
    """Keep what ``module`` in this state is, until it changes or goes."""
    with _lock:
        _remembered[module] = (state, base)


def _facts(weights: "Sequence[tuple[str, torch.Tensor]]") -> list[tuple[object, ...]]:
    return [
        (
            name,
            tensor.untyped_storage()._cdata,  # noqa: SLF001
            None if tensor.is_inference() else tensor._version,  # noqa: SLF001
            tensor.data_ptr(),
            tensor.dtype,
            tensor.shape,
            tensor.stride(),
        )
        for name, tensor in weights
    ]


def _spread(tensor: "torch.Tensor") -> _Places:
    """Return the size, stride and offset of a few elements that lie evenly over the memory of ``tensor``."""
    if not tensor.numel():
        return (0,), (1,), 0
    room = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    count = min(_WITNESSES, room)
    stride = room // count
    stride -= 1 - stride % 2  # odd, or in matrices of even width all might lie in one column
    return (count,), (stride,), int(_OFFSET * stride)


def _gather(
    weights: "Sequence[tuple[str, torch.Tensor]]", places: Sequence[_Places]
) -> list[bytes]:
    """Return the bytes of a few elements of every weight, with one transfer from each device."""
    import torch

    parts: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    with torch.no_grad():
        for (_, tensor), (size, stride, offset) in zip(weights, places, strict=True):
            few = tensor.as_strided(size, stride, tensor.storage_offset() + offset)
            parts.setdefault((tensor.dtype, tensor.device), []).append(few)
        return [
            torch.cat(some).view(torch.uint8).cpu().numpy().tobytes() for some in parts.values()
        ]
