"""``promptreg.json``: what a PEFT directory that promptreg wrote cannot say in PEFT's own words.

PEFT ignores it. It holds the whole manifest, so that a pulled directory, pushed again, is the same prompt. It
counts only as long as the files beside it are those that it was written with.
"""

from dataclasses import replace
from typing import Any

from promptreg.artifacts.found import Found
from promptreg.artifacts.tensors import dump_tensors
from promptreg.bases import BaseModel
from promptreg.digests import Digest
from promptreg.documents import parse_document, render_document
from promptreg.errors import InvalidArtifactError
from promptreg.manifests import MAX_MANIFEST, manifest_bytes, read_manifest
from promptreg.prompts import SoftPrompt

__all__ = ["SIDECAR", "read_sidecar", "write_sidecar"]

SIDECAR = "promptreg.json"
_FORMAT = "promptreg.sidecar/1"
_LIMIT = MAX_MANIFEST + 2**10  # and what stands around the manifest


def write_sidecar(prompt: SoftPrompt, base: BaseModel | None, config: bytes) -> bytes:
    """Return the sidecar of a PEFT directory that holds ``prompt`` and the configuration ``config``."""
    tensors = dump_tensors(prompt.tensors)
    manifest = manifest_bytes(
        prompt,
        base=base.fingerprint if base else None,
        tensors=Digest.of(tensors),
        size=len(tensors),
    )
    document = {
        "format": _FORMAT,
        "config": str(Digest.of(config)),
        "manifest": parse_document(manifest, limit=MAX_MANIFEST),
    }
    return render_document(document)


def read_sidecar(found: Found, config: bytes, prompt: SoftPrompt) -> SoftPrompt:
    """Return the prompt that the sidecar describes, if there is one and it belongs to these files.

    Args:
        found: The PEFT directory.
        config: Its configuration's bytes.
        prompt: What was read from it without the sidecar.

    Returns:
        The prompt with all that promptreg knew of it, or ``prompt``, with a note if a sidecar was passed over.

    Raises:
        InvalidArtifactError: The sidecar is broken, or of a newer release.
    """
    if SIDECAR not in found.names:
        return prompt
    where = str(found.path / SIDECAR)
    data = found.member(SIDECAR, limit=_LIMIT)
    try:
        config_digest, manifest = _parse(data)
    except ValueError as error:
        remedy = f"remove {SIDECAR} to read the directory as PEFT does"
        raise InvalidArtifactError(where, str(error), remedy) from error
    tensors_digest = str(Digest.of(dump_tensors(prompt.tensors)))
    if (config_digest, manifest["tensors"].get("digest")) != (
        str(Digest.of(config)),
        tensors_digest,
    ):
        note = (
            f"{SIDECAR} was written for other files than lie beside it now: the template, labels, "
            "placement and hyperparameters in it were not taken over"
        )
        return replace(prompt, notes=(*prompt.notes, note))
    told = read_manifest(render_document(manifest), prompt.tensors, where=where)
    return replace(told.prompt, notes=prompt.notes)


def _parse(data: bytes) -> tuple[object, dict[str, Any]]:
    """Return the digest of the configuration, and the manifest, which names that of the tensors."""
    document = parse_document(data, limit=_LIMIT)
    manifest = document.get("manifest")
    if (
        document.get("format") != _FORMAT
        or not isinstance(manifest, dict)
        or not isinstance(manifest.get("tensors"), dict)
    ):
        raise ValueError(f"it is no {_FORMAT}")
    return document.get("config"), manifest
