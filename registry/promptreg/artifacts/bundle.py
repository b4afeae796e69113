"""Our own form: ``prompt.safetensors`` and ``manifest.json``, the two documents as the registry stores them.

A safetensors file alone is read too, with what can be told from its shapes; it is never written.
"""

from promptreg.artifacts.formats import Format, Rendering
from promptreg.artifacts.found import Found
from promptreg.artifacts.tensors import dump_tensors, load_metadata, load_tensors
from promptreg.bases import BaseModel
from promptreg.digests import Digest
from promptreg.errors import InvalidArtifactError
from promptreg.layouts import PROMPT_EMBEDDINGS, TASK_COLS, TASK_EMBEDDING, TASK_ROWS
from promptreg.manifests import MAX_MANIFEST, manifest_bytes, read_manifest
from promptreg.prompts import Method, SoftPrompt, Tensor

__all__ = ["SafetensorsFormat"]

_TENSORS = "prompt.safetensors"
_MANIFEST = "manifest.json"
_MULTITASK = {PROMPT_EMBEDDINGS, TASK_COLS, TASK_ROWS}
_WITH_EMBEDDING = {PROMPT_EMBEDDINGS, TASK_EMBEDDING}
# Files that are half of a prompt, and their other half.
_HALVES = {"adapter_model.safetensors": "adapter_config.json", _TENSORS: _MANIFEST}
_PLAIN_METADATA: tuple[dict[str, str], ...] = ({}, {"format": "pt"})


class SafetensorsFormat(Format):
    """A soft prompt with nothing left out."""

    name = "safetensors"

    def _detect(self, found: Found) -> bool:
        if found.is_directory:
            return {_TENSORS, _MANIFEST} <= found.names
        return found.data[4:8] == b"\0\0\0\0" and found.data[8:9] == b"{"

    def _read(self, found: Found) -> SoftPrompt:
        return _read_pair(found) if found.is_directory else _read_alone(found)

    def _render(self, prompt: SoftPrompt, base: BaseModel | None, name: str) -> Rendering:
        del name  # a prompt's name is the registry's business
        tensors = dump_tensors(prompt.tensors)
        manifest = manifest_bytes(
            prompt,
            base=base.fingerprint if base else None,
            tensors=Digest.of(tensors),
            size=len(tensors),
        )
        return Rendering(files={_TENSORS: tensors, _MANIFEST: manifest})


def _read_pair(found: Found) -> SoftPrompt:
    where = str(found.path / _TENSORS)
    data = found.member(_TENSORS)
    manifest = read_manifest(
        found.member(_MANIFEST, limit=MAX_MANIFEST),
        load_tensors(data, where=where),
        where=str(found.path / _MANIFEST),
    )
    if manifest.tensors != Digest.of(data) or manifest.size != len(data):
        raise InvalidArtifactError(
            where, f"its bytes are not those that {_MANIFEST} names", "take both from one pull"
        )
    return manifest.prompt


def _read_alone(found: Found) -> SoftPrompt:
    """Read one tensor [P, H] of any name, or those of a tuned or a multitask prompt by their names."""
    where = str(found)
    other = _HALVES.get(found.path.name)
    if other is not None and found.path.with_name(other).exists():
        # The same shape means another thing in prefix tuning: the other half says which it is.
        reason = f"it is half of a prompt, whose other half is {other}"
        raise InvalidArtifactError(where, reason, f"name the directory {found.path.parent}")
    tensors = load_tensors(found.data, where=where)
    metadata = load_metadata(found.data, where=where)
    multitask = tensors.keys() == _MULTITASK
    whole = multitask or tensors.keys() == _WITH_EMBEDDING
    name = PROMPT_EMBEDDINGS if whole else _only_name(tensors, where)
    tokens, width = _matrix(name, tensors[name], where)
    return SoftPrompt(
        method=Method.MULTITASK_PROMPT_TUNING if multitask else Method.PROMPT_TUNING,
        tensors=tensors if whole else {PROMPT_EMBEDDINGS: tensors[name]},
        num_virtual_tokens=tokens,
        token_dim=width,
        source_format=SafetensorsFormat.name,
        source_config=({"tensor": name} if name != PROMPT_EMBEDDINGS else {})
        | ({"metadata": metadata} if metadata not in _PLAIN_METADATA else {}),
    )


def _only_name(tensors: dict[str, Tensor], where: str) -> str:
    try:
        (name,) = tensors
    except ValueError:
        reason = (
            f"it holds {len(tensors)} tensors ({', '.join(tensors)[:80]}), and no configuration"
        )
        remedy = "save the prompt's one tensor alone, or with its configuration as a PEFT directory"
        raise InvalidArtifactError(where, reason, remedy) from None
    return name


def _matrix(name: str, tensor: Tensor, where: str) -> tuple[int, int]:
    """Return P and H."""
    try:
        tokens, width = tensor.shape
    except ValueError:
        reason = f"{name!r} is {list(tensor.shape)}, and [tokens, width] was expected"
        raise InvalidArtifactError(where, reason, "save the prompt in that shape") from None
    return tokens, width
