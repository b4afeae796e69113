"""Versions to register in tests of the database, where nobody looks at the objects."""

from typing import Any

from promptreg.bases import BaseModel
from promptreg.database import Database, NewVersion
from promptreg.digests import Digest
from promptreg.names import Reference
from promptreg.prompts import Method, Placement, PromptVersion, TaskType
from samples import base_model

__all__ = ["GEMMA", "LLAMA", "add_bases", "new_version", "push", "resolve"]

GEMMA = base_model(1, name="gemma")
LLAMA = base_model(2, name="llama")


def add_bases(database: Database, *bases: BaseModel) -> None:
    """Register the base models; GEMMA and LLAMA unless others are named."""
    for base in bases or (GEMMA, LLAMA):
        database.add_base(base, table=Digest.of(str(base.fingerprint).encode()), by="ada")


def new_version(content: str = "a", *, base: BaseModel = GEMMA, **fields: Any) -> NewVersion:
    """Return a version whose objects and key follow from ``content`` and ``base``."""
    tensors = content.encode()
    manifest = f"{content} for {base.fingerprint}".encode()
    values: dict[str, Any] = {
        "task": "sst2",
        "base": base.fingerprint,
        "digest": Digest.of(tensors),
        "size": len(tensors),
        "manifest": manifest,
        "method": Method.PROMPT_TUNING,
        "task_type": TaskType.CAUSAL_LM,
        "placement": Placement.PREFIX,
        "num_virtual_tokens": 20,
        "token_dim": base.token_dim,
        "by": "ada",
        "idempotency_key": str(Digest.of(manifest)),
    }
    return NewVersion(**{**values, **fields})


def push(database: Database, content: str = "a", **fields: Any) -> PromptVersion:
    """Register ``new_version`` and return the version."""
    return database.register(new_version(content, **fields))[0]


def resolve(database: Database, reference: str, *, base: BaseModel | None = None) -> PromptVersion:
    """Return the version that ``reference`` stands for."""
    fingerprint = None if base is None else base.fingerprint
    return database.resolve(Reference.parse(reference), base=fingerprint)
