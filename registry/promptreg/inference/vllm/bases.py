"""The base model that vLLM runs, as far as this process needs it: identity, input embedding, tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from promptreg.bases import BaseModel
from promptreg.errors import AttachError, ConfigurationError, UnreadableBaseModelError
from promptreg.inference.vllm.embedding import load_embedded_skeleton
from promptreg.models.anatomy import Anatomy, Kind, examine
from promptreg.models.fingerprinting import from_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

__all__ = ["ServedBase", "read_dtype"]

_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float": torch.float32,
    "float16": torch.float16,
    "float32": torch.float32,
    "half": torch.float16,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServedBase:
    """A base model that another process runs, read from the same directory.

    Attributes:
        directory: Where it lies.
        model: Its identity, with its table of weights.
        anatomy: Its architecture on the meta device, with its input embedding alone in memory.
        tokenizer: Its tokenizer.
    """

    directory: Path
    model: BaseModel
    anatomy: Anatomy = field(repr=False)
    tokenizer: "PreTrainedTokenizerBase" = field(repr=False)

    @classmethod
    def open(
        cls,
        directory: str | Path,
        *,
        dtype: str | torch.dtype | None = None,
        progress: "Callable[[int, int], None] | None" = None,
    ) -> "ServedBase":
        """Fingerprint the base model in ``directory`` and load its embedding and its tokenizer.

        Args:
            directory: A transformers directory with safetensors weights. No code in it is run.
            dtype: The dtype that vLLM runs the model in; None or ``auto`` for the one that it is stored in.
            progress: Called with (bytes done, bytes in all) as the weights are read.

        Raises:
            BaseModelError: The directory holds no base model that can be fingerprinted.
            AttachError: Its input embedding is not one table.
            UnreadableBaseModelError: It is no decoder, which alone vLLM prompts, or it has no tokenizer.
            ConfigurationError: There is no such dtype.
        """
        directory = Path(directory)
        chosen = read_dtype(dtype)
        model = from_files(directory, progress=progress)
        anatomy = examine(load_embedded_skeleton(directory, dtype=chosen))
        if anatomy.kind is not Kind.DECODER:
            raise UnreadableBaseModelError(
                str(directory),
                f"a {model.architecture} is an {anatomy.kind}, and vLLM takes prompts for decoders alone",
                "use its prompts in process, with promptreg.attach",
            )
        return cls(
            directory=directory, model=model, anatomy=anatomy, tokenizer=_load_tokenizer(directory)
        )

    @property
    def dtype(self) -> str:
        """The dtype of the embedding, as vLLM's ``--dtype`` writes it."""
        return str(self.anatomy.dtype).removeprefix("torch.")

    def check_ids(self, ids: Sequence[int]) -> None:
        """Return if the base model knows each of the token ``ids``.

        Raises:
            AttachError: It does not.
        """
        size = self.anatomy.vocab_size
        unknown = next((token for token in ids if not 0 <= token < size), None)
        if unknown is not None:
            raise AttachError(
                f"the token id {unknown} is not one that the base model knows, 0 to {size - 1}",
                "encode texts with the base model's own tokenizer",
            )

    def read(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text, with the BOS token if the tokenizer puts one."""
        encoded = self.tokenizer(text, add_special_tokens=add_special_tokens)
        return list(encoded["input_ids"])

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """Return [T, H] The embeddings of the T token ``ids``.

        Raises:
            AttachError: One is not in the vocabulary.
        """
        self.check_ids(ids)
        embedded: Tensor = self.anatomy.embedding(torch.tensor(ids, dtype=torch.long))
        return embedded


def read_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Return the dtype that vLLM's ``--dtype`` names; None for ``auto``, which is the one that is stored.

    Raises:
        ConfigurationError: There is no such dtype.
    """
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return None
    if dtype not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise ConfigurationError("dtype", dtype, "vLLM has no such dtype", f"one of auto, {known}")
    return _DTYPES[dtype]


def _load_tokenizer(directory: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    loader: Any = AutoTokenizer
    try:
        tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise UnreadableBaseModelError(
            str(directory),
            "transformers cannot load a tokenizer from it",
            "put the files of its tokenizer there: tokenizer.save_pretrained(directory)",
        ) from error
    return tokenizer
