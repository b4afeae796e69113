"""Casts: the dtype that transformers loads a weight in, if nobody asks for another one."""

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from promptreg.errors import AmbiguousWeightsError
from promptreg.models.skeletons import Skeleton
from promptreg.models.tensors import HASHED_DTYPES, TensorDigest, holds

if TYPE_CHECKING:
    import torch

__all__ = ["Casts"]

_WIDER = {("BF16", "F32"), ("BF16", "F64"), ("F16", "F32"), ("F16", "F64"), ("F32", "F64")}


class Casts:
    """The casts that loading a directory implies: to the dtype that its ``config.json`` asks for.

    Args:
        source: The directory, for the error.
        document: What ``config.json`` says.
        skeleton: The architecture that it describes.
        stored: The dtypes in the files, one of which counts where ``config.json`` asks for none.
    """

    def __init__(
        self,
        source: str,
        document: Mapping[str, Any],
        skeleton: Skeleton,
        stored: Collection[str],
    ) -> None:
        self._source = source
        asked = document.get("dtype") or document.get("torch_dtype")
        if isinstance(asked, str) and asked in HASHED_DTYPES:
            # A class may insist on a dtype for a weight (a router's bias in float32): the skeleton shows it.
            self._loaded = {name: [tensor.dtype] for name, tensor in skeleton.weights.items()}
            plan = skeleton.model._get_dtype_plan(_dtype(asked))  # noqa: SLF001
            for pattern in plan:
                for name in self._loaded:
                    if re.search(pattern.replace("*", ".*"), name):
                        self._loaded[name] = [_dtype("float32")]
        else:
            names = {short: name for name, short in HASHED_DTYPES.items()}
            dtypes = [_dtype(names[short]) for short in sorted(set(stored) & names.keys())]
            self._loaded = dict.fromkeys(skeleton.weights, dtypes)

    def check(self, name: str, tensor: "torch.Tensor", digest: TensorDigest) -> None:
        """Return if loading rounds no value of the weight ``name``.

        Raises:
            AmbiguousWeightsError: It does, so what the files hold is not what will run.
        """
        for loaded in self._loaded[name]:
            short = HASHED_DTYPES[str(loaded).removeprefix("torch.")]
            if short == digest.dtype or (digest.dtype, short) in _WIDER or holds(tensor, loaded):
                continue
            reason = f"{name} needs {digest.dtype}, and transformers rounds it to {short} on load"
            raise AmbiguousWeightsError(self._source, reason)


def _dtype(name: str) -> "torch.dtype":
    import torch

    dtype: torch.dtype = getattr(torch, name.removeprefix("torch."))
    return dtype
