"""What there is to know of a base model: the table of its weights, its sizes, where it came from."""

import re
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from promptreg.bases import BaseModel
from promptreg.digests import Digest
from promptreg.errors import UnreadableBaseModelError
from promptreg.fingerprints import Part, TensorRecord, WeightTable
from promptreg.models.canonical import Naming
from promptreg.models.key_shapes import count_layers, decoder_config, key_value_heads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedModel

    from promptreg.models.tensors import TensorDigest

__all__ = ["Origin", "describe", "tabulate", "trace_directory", "trace_module"]

_PARTS = list(Part)
_SNAPSHOT = re.compile(r".*/models--([^/]+)/snapshots/([0-9a-f]{40})")
_TOKENIZER_FILES = (
    "added_tokens.json", "chat_template.jinja", "merges.txt", "sentencepiece.bpe.model",
    "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "vocab.json", "vocab.txt",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a base model came from.

    Attributes:
        source: A directory's name, or a hub's identifier.
        revision: The revision there, if it is known.
        tokenizer: The digest of its tokenizer's files, if there are any.
    """

    source: str | None = None
    revision: str | None = None
    tokenizer: Digest | None = None


def tabulate(
    naming: Naming, weights: "Iterable[tuple[tuple[str, ...], TensorDigest]]"
) -> WeightTable:
    """Return the table of the weights of a model.

    Args:
        naming: How they are called.
        weights: Every weight with all the names that it is used under.

    Raises:
        UnreadableBaseModelError: Two weights would have the same canonical name.
    """
    records, tied = [], []
    for names, digest in weights:
        parts = sorted((_PARTS.index(naming.part(n)), naming.canonical(n)) for n in names)
        (part, name), *others = parts
        records.append(
            TensorRecord(
                name=name,
                part=_PARTS[part],
                dtype=digest.dtype,
                shape=digest.shape,
                digest=digest.digest,
            )
        )
        tied += [(other, name) for part, other in others if _PARTS[part] is Part.HEAD]
    embedding = next(record for record in records if record.part is Part.EMBEDDING)
    for record in records:
        # A head that equals the embedding is tied to it, whatever a config says and however it was saved.
        if record.name == naming.output and _values(record) == _values(embedding):
            records.remove(record)
            tied.append((record.name, embedding.name))
            break
    try:
        return WeightTable(records=tuple(records), tied=tuple(tied))
    except ValueError as error:
        remedy = "give a model whose head and backbone call their weights differently"
        raise UnreadableBaseModelError("this model", str(error), remedy) from error


def describe(model: "PreTrainedModel", table: WeightTable, origin: Origin) -> BaseModel:
    """Return the base model ``model`` (or its skeleton), whose weights are in ``table``."""
    config = decoder_config(model.config)
    heads, width = key_value_heads(config)
    embedding = next(record for record in table.records if record.part is Part.EMBEDDING)
    numbers = Counter[str]()
    for record in table.records:
        numbers[record.dtype] += prod(record.shape)
    part = {each: table.part(each) for each in Part}
    return BaseModel(
        fingerprint=table.fingerprint,
        embedding=part[Part.EMBEDDING] or "",
        body=part[Part.BODY] or "",
        head=part[Part.HEAD],
        architecture=type(model).__name__,
        model_type=model.config.model_type,
        encoder_decoder=bool(getattr(model.config, "is_encoder_decoder", False)),
        token_dim=embedding.shape[-1],
        vocab_size=embedding.shape[0],
        num_layers=count_layers(config),
        key_value_dim=heads * width,
        parameters=numbers.total(),
        dtype=numbers.most_common(1)[0][0],
        source=origin.source,
        revision=origin.revision,
        tokenizer=origin.tokenizer,
        table=table,
    )


def trace_directory(directory: Path) -> Origin:
    """Return where the base model in ``directory`` came from: a hub's cache says it in its path."""
    resolved = directory.resolve()
    hub = _SNAPSHOT.fullmatch(resolved.as_posix())
    return Origin(
        source=hub[1].replace("--", "/") if hub else resolved.name,
        revision=hub[2] if hub else None,
        tokenizer=_tokenizer(directory),
    )


def trace_module(model: "PreTrainedModel") -> Origin:
    """Return where ``model`` was loaded from, as far as its config says."""
    where = str(getattr(model.config, "_name_or_path", "") or "")
    if where and (Path(where) / "config.json").is_file():
        return trace_directory(Path(where))
    revision = getattr(model.config, "_commit_hash", None)
    return Origin(source=where or None, revision=revision)


def _tokenizer(directory: Path) -> Digest | None:
    """Return the digest of a listing of the tokenizer's files with their BLAKE3, as b3sum prints it."""
    from blake3 import blake3

    lines = []
    for name in _TOKENIZER_FILES:
        if (directory / name).is_file():
            hasher = blake3(max_threads=blake3.AUTO).update_mmap(directory / name)
            lines.append(f"{hasher.hexdigest()}  {name}\n")
    return Digest.of("".join(lines).encode()) if lines else None


def _values(record: TensorRecord) -> tuple[str, tuple[int, ...], str]:
    return record.dtype, record.shape, record.digest
