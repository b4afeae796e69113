"""What prompts are compared by, kept on disk: two vectors each, so that thousands are compared at once.

H is the base model's embedding width, P the number of virtual tokens, N the number of prompts in an index.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from promptreg.digests import Digest
from promptreg.errors import (
    CorruptObjectError,
    InvalidArtifactError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    PromptregError,
)
from promptreg.layouts import PROMPT_EMBEDDINGS, TASK_EMBEDDING
from promptreg.objects.files import FileTree
from promptreg.settings import cache_directory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from promptreg.bases import BaseModel
    from promptreg.fingerprints import Fingerprint
    from promptreg.registry import Registry

    Vectors = NDArray[np.float32]

__all__ = ["SimilarityIndex", "bring_up_to_date", "summarise"]

_LOG = logging.getLogger(__name__)
_FOLDER = "similarity-1"  # a release that keeps something else here counts on
_LARGEST = 2**34
_AT_ONCE = 16  # objects on their way from the store
_DIGEST = 32  # bytes
_UNREADABLE = (CorruptObjectError, InvalidArtifactError, ObjectNotFoundError, ObjectTooLargeError)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimilarityIndex:
    """Prompts on one base model, each as the mean of its tokens and the mean of its tokens at unit length.

    SPoT's two measures follow from those: the cosine of two mean tokens, and the mean of the cosines of all
    pairs of tokens, which is the dot product of the two means of unit tokens.

    Attributes:
        digests: [N, 32] The digests of the prompts' objects, as bytes.
        prompts: [N, 2, H] The two means of each prompt.
        embeddings: [M, 2, H] The two means of each task embedding, for those of the N prompts that have one.
        embedded: [N] The row of ``embeddings`` that is a prompt's, or -1.
    """

    digests: "NDArray[np.uint8]"
    prompts: "Vectors"
    embeddings: "Vectors"
    embedded: "NDArray[np.int64]"

    @classmethod
    def empty(cls, width: int) -> "SimilarityIndex":
        """Return an index of no prompts that are ``width`` wide."""
        import numpy as np

        return cls(
            digests=np.zeros((0, _DIGEST), np.uint8),
            prompts=np.zeros((0, 2, width), np.float32),
            embeddings=np.zeros((0, 2, width), np.float32),
            embedded=np.zeros(0, np.int64),
        )

    def rows(self) -> dict[str, int]:
        """Return the row of each prompt by the hex digits of its object's digest."""
        text = self.digests.tobytes().hex()
        starts = range(0, len(text), 2 * _DIGEST)
        return {text[at : at + 2 * _DIGEST]: row for row, at in enumerate(starts)}

    def extended(
        self, found: "Mapping[Digest, tuple[Vectors, Vectors | None]]"
    ) -> "SimilarityIndex":
        """Return this index with what ``summarise`` made of more objects."""
        import numpy as np

        if not found:
            return self
        early = [pair for _, pair in found.values() if pair is not None]
        numbers = iter(range(len(self.embeddings), len(self.embeddings) + len(early)))
        rows = [-1 if pair is None else next(numbers) for _, pair in found.values()]
        digests = np.frombuffer(bytes.fromhex("".join(each.hex for each in found)), np.uint8)
        return SimilarityIndex(
            digests=np.concatenate([self.digests, digests.reshape(-1, _DIGEST)]),
            prompts=np.concatenate([self.prompts, np.stack([pair for pair, _ in found.values()])]),
            embeddings=np.concatenate([self.embeddings, np.stack(early)])
            if early
            else self.embeddings,
            embedded=np.concatenate([self.embedded, np.array(rows, np.int64)]),
        )


def summarise(rows: "NDArray[Any]") -> "Vectors":
    """Return [2, H] the mean of a prompt's tokens [P, H], and the mean of its tokens at unit length."""
    import numpy as np

    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    units = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    pair: Vectors = np.stack([wide.mean(axis=0), units.mean(axis=0)]).astype(np.float32)
    return pair


def bring_up_to_date(
    registry: "Registry",
    base: "BaseModel",
    digests: Sequence[Digest],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SimilarityIndex, dict[Digest, PromptregError]]:
    """Return the index of the prompts on ``base`` with all of ``digests`` in it, and keep it.

    Only objects that it lacks are fetched, several at once, each checked against its digest. What was fetched
    is kept even if the rest cannot be. An index on disk that is damaged is made again.

    Args:
        registry: Where the objects are.
        base: The base model.
        digests: The digests of the prompts' objects.
        progress: Called with how many objects are fetched, of how many.

    Returns:
        The index, and why it does without some of the objects.

    Raises:
        StoreUnavailableError: The object store cannot be reached or read.
    """
    index = _load(base.fingerprint, base.token_dim)
    known = index.rows()
    missing = [each for each in dict.fromkeys(digests) if each.hex not in known]
    if not missing:
        return index, {}
    found: dict[Digest, tuple[Vectors, Vectors | None]] = {}
    unreadable: dict[Digest, PromptregError] = {}
    try:
        _fetch(registry, base.token_dim, missing, found, unreadable, progress)
    finally:
        index = index.extended(found)
        if found:
            _save(base.fingerprint, index)
    return index, unreadable


def _fetch(
    registry: "Registry",
    width: int,
    missing: Sequence[Digest],
    found: "dict[Digest, tuple[Vectors, Vectors | None]]",
    unreadable: dict[Digest, PromptregError],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Fill ``found`` and ``unreadable`` with what comes of ``missing``."""
    from concurrent.futures import ThreadPoolExecutor

    def read(digest: Digest) -> "tuple[Vectors, Vectors | None] | PromptregError":
        try:
            return _summary(registry.read_object(digest), digest, width)
        except _UNREADABLE as error:
            return error

    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="promptreg-similar")
    try:
        # The first one alone: it opens the store.
        results = [pool.submit(read, missing[0])]
        results[0].exception()
        results += [pool.submit(read, digest) for digest in missing[1:]]
        for done, (digest, result) in enumerate(zip(missing, results, strict=True), start=1):
            summary = result.result()
            if isinstance(summary, PromptregError):
                unreadable[digest] = summary
            else:
                found[digest] = summary
            if progress is not None:
                progress(done, len(missing))
    finally:
        pool.shutdown(cancel_futures=True)


def _summary(data: bytes, digest: Digest, width: int) -> "tuple[Vectors, Vectors | None]":
    """Return what a prompt's object comes to, and its task embedding if it has one."""
    from promptreg.artifacts import load_tensors
    from promptreg.artifacts.arrays import to_array

    tensors = load_tensors(data, where=str(digest))
    rows = {
        name: to_array(tensors[name])
        for name in (PROMPT_EMBEDDINGS, TASK_EMBEDDING)
        if name in tensors
    }
    if PROMPT_EMBEDDINGS not in rows or any(each.shape[1:] != (width,) for each in rows.values()):
        raise InvalidArtifactError(
            str(digest), f"it is no prompt [tokens, {width}]", "push it again"
        )
    early = rows.get(TASK_EMBEDDING)
    return summarise(rows[PROMPT_EMBEDDINGS]), None if early is None else summarise(early)


def _tree() -> FileTree:
    return FileTree(cache_directory() / _FOLDER, durable=False)


def _key(base: "Fingerprint") -> str:
    return f"{str(base).replace(':', '-')}.safetensors"


def _load(base: "Fingerprint", width: int) -> SimilarityIndex:
    """Return the index that is kept for ``base``; an empty one if there is none, or it is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = _tree().read(_key(base), _LARGEST)
        if data is None:
            return SimilarityIndex.empty(width)
        index = _checked(load(data), width)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        _LOG.warning("the index of similar prompts is made again: %s", error)
        return SimilarityIndex.empty(width)
    return index


def _save(base: "Fingerprint", index: SimilarityIndex) -> None:
    """Keep ``index``, if the cache can be written; it is whole or not there."""
    from safetensors.numpy import save

    arrays = _arrays(index)
    try:
        _tree().write(_key(base), save({**arrays, "checksum": _checksum(arrays)}))
    except OSError as error:
        _LOG.warning("the index of similar prompts cannot be kept: %s", error)


def _arrays(index: SimilarityIndex) -> "dict[str, NDArray[Any]]":
    names = ("digests", "prompts", "embeddings", "embedded")
    return {name: getattr(index, name) for name in names}


def _checksum(arrays: "Mapping[str, NDArray[Any]]") -> "NDArray[np.uint8]":
    import numpy as np
    from blake3 import blake3

    hasher = blake3(max_threads=blake3.AUTO)
    for name, array in sorted(arrays.items()):
        hasher.update(f"{name} {array.dtype} {array.shape} ".encode())
        hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return np.frombuffer(hasher.digest(), np.uint8)


def _checked(arrays: "dict[str, NDArray[Any]]", width: int) -> SimilarityIndex:
    """Return the index that was written as ``arrays``.

    Raises:
        KeyError, ValueError: They are not what was written, or were not written by this release.
    """
    checksum = arrays.pop("checksum")
    index = SimilarityIndex(
        **{name: arrays[name] for name in _arrays(SimilarityIndex.empty(width))}
    )
    if checksum.tobytes() != _checksum(arrays).tobytes():
        raise ValueError("its bytes are not those that were written")
    if index.prompts.shape[1:] != (2, width):
        raise ValueError(f"its prompts are not {width} wide")
    return index
