"""Directories that were fingerprinted before: a hint on disk that saves reading their weights again.

It is believed while no relevant file has changed, by what the file system says of each: device, inode, size,
mtime and ctime. A copy in another place is another directory. Needs neither torch nor transformers.
"""

import importlib.util
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from promptreg.bases import BaseModel
from promptreg.digests import Digest
from promptreg.fingerprints import Fingerprint, WeightTable
from promptreg.objects.files import FileTree
from promptreg.settings import cache_directory

__all__ = ["DirectoryState", "recall", "remember"]

_FORMAT = "promptreg.fingerprinted/1"
_RELEVANT = (".bin", ".gguf", ".json", ".model", ".safetensors", ".txt")
_LARGEST = 1 << 28
_SECOND = 10**9
_TICK = 20_000_000  # ns, about twice the longest step of the clock that stamps files


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryState:
    """What the file system says of a directory.

    Attributes:
        key: What tells it from other directories.
        stamps: What would change if one of its files did, and if another transformers were installed.
        settled: Whether a write from now on would change a stamp. It would not within one step of the file
            system's clock, which is up to two seconds long on some.
    """

    key: str
    stamps: tuple[tuple[int | str, ...], ...]
    settled: bool

    @classmethod
    def of(cls, directory: Path) -> "DirectoryState":
        """Return the state of ``directory`` now.

        Raises:
            OSError: It cannot be listed.
        """
        now = time.time_ns()
        own = directory.stat()
        with os.scandir(directory) as entries:
            files = sorted(
                (entry.name, entry.stat()) for entry in entries if entry.name.endswith(_RELEVANT)
            )
        stamps = [
            (name, file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns)
            for name, file in files
        ]
        newest = max((max(file.st_mtime_ns, file.st_ctime_ns) for _, file in files), default=0)
        tick = _TICK if any(file.st_ctime_ns % _SECOND for _, file in files) else 2 * _SECOND
        return cls(
            key=f"{own.st_dev:x}-{own.st_ino:x}.json",
            stamps=(_library_stamp(), *stamps),
            settled=now - newest > tick,
        )


def recall(state: DirectoryState) -> BaseModel | None:
    """Return the base model that a directory in this very state was found to hold, if one was."""
    try:
        data = _tree().read(state.key, _LARGEST)
        document = json.loads(data) if data else {}
        if document.get("format") != _FORMAT or document["stamps"] != _plain(state.stamps):
            return None
        return _from_document(document["base"])
    # A hint that cannot be read, or that another release wrote, is no hint.
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remember(state: DirectoryState, base: BaseModel) -> None:
    """Keep what a directory in this state holds, if the cache can be written."""
    document = {
        "format": _FORMAT,
        "stamps": _plain(state.stamps),
        "base": _to_document(base),
    }
    with suppress(OSError):
        _tree().write(state.key, json.dumps(document, separators=(",", ":")).encode())


def _tree() -> FileTree:
    return FileTree(cache_directory() / "fingerprints", durable=False)


@lru_cache(maxsize=1)
def _library_stamp() -> tuple[int | str, ...]:
    """Return what changes when another transformers is installed, whose names for weights may differ."""
    spec = importlib.util.find_spec("transformers")  # finds it without importing it
    if spec is None or spec.origin is None:
        return ("transformers", 0, 0)
    file = Path(spec.origin).stat()
    return ("transformers", file.st_size, file.st_mtime_ns)


def _plain(stamps: tuple[tuple[int | str, ...], ...]) -> list[list[int | str]]:
    return [list(stamp) for stamp in stamps]


def _to_document(base: BaseModel) -> dict[str, Any]:
    return {
        "fingerprint": str(base.fingerprint),
        "embedding": base.embedding,
        "body": base.body,
        "head": base.head,
        "architecture": base.architecture,
        "model_type": base.model_type,
        "encoder_decoder": base.encoder_decoder,
        "token_dim": base.token_dim,
        "vocab_size": base.vocab_size,
        "num_layers": base.num_layers,
        "key_value_dim": base.key_value_dim,
        "parameters": base.parameters,
        "dtype": base.dtype,
        "source": base.source,
        "revision": base.revision,
        "tokenizer": str(base.tokenizer) if base.tokenizer else None,
        "table": base.table.to_bytes().decode() if base.table else None,
    }


def _from_document(document: dict[str, Any]) -> BaseModel:
    """Return the base model that ``_to_document`` wrote.

    Raises:
        ValueError, KeyError, TypeError: It did not write this.
    """
    table = WeightTable.from_bytes(document.pop("table").encode())
    fingerprint = Fingerprint(document.pop("fingerprint"))
    tokenizer = document.pop("tokenizer")
    if table.fingerprint != fingerprint:
        raise ValueError("the table is not that of the fingerprint")
    return BaseModel(
        fingerprint=fingerprint,
        tokenizer=Digest(tokenizer) if tokenizer else None,
        table=table,
        **document,
    )
