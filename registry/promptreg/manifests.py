"""Manifests: the JSON description that travels with a prompt's tensors. Specified in docs/format.md."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from promptreg.digests import Digest
from promptreg.documents import parse_document, render_document
from promptreg.errors import InvalidArtifactError
from promptreg.fingerprints import Fingerprint
from promptreg.layouts import check_layout
from promptreg.prompts import Method, Placement, SoftPrompt, TaskType, Tensor, Vote

__all__ = ["MAX_MANIFEST", "Manifest", "manifest_bytes", "read_manifest"]

MAX_MANIFEST = 256 * 2**10
"""The longest manifest that is read or written, in bytes."""
_FORMAT = "promptreg.prompt/1"
_FAMILY = "promptreg.prompt/"
_UPGRADE = "upgrade promptreg"
_PULL = "pull the prompt again, or fetch an undamaged copy"
_SHORTEN = "leave out or mend what it names"
_SCALARS = (bool, int, float, str)
_Name = TypeVar("_Name", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A soft prompt, the base model that it is for, and the object that holds its tensors.

    Attributes:
        prompt: The tensors with everything needed to use them again.
        base: The fingerprint of the base model; None in a file exported without one at hand.
        tensors: The digest of the tensors' object.
        size: The length of that object, in bytes.
    """

    prompt: SoftPrompt
    base: Fingerprint | None
    tensors: Digest
    size: int


def manifest_bytes(
    prompt: SoftPrompt, *, base: Fingerprint | None, tensors: Digest, size: int
) -> bytes:
    """Return the manifest of ``prompt`` as canonical JSON: the same prompt, the same bytes.

    Args:
        prompt: What is described.
        base: The base model that it was trained on.
        tensors: The digest of the object that holds its tensors.
        size: The length of that object, in bytes.

    Raises:
        InvalidArtifactError: The prompt cannot be described: its tensors do not fit its numbers, or what it
            says of itself is not JSON or is too long.
    """
    document: dict[str, Any] = {
        "format": _FORMAT,
        "base": None if base is None else str(base),
        "method": prompt.method,
        "task_type": prompt.task_type,
        "placement": prompt.placement,
        "num_virtual_tokens": prompt.num_virtual_tokens,
        "token_dim": prompt.token_dim,
        "num_layers": prompt.num_layers,
        "template": prompt.template,
        "labels": list(prompt.labels),
        "init": prompt.init,
        "hyperparameters": prompt.hyperparameters,
        "source": {"format": prompt.source_format, "config": prompt.source_config},
        "tensors": {"digest": str(tensors), "size": size, "entries": _entries(prompt.tensors)},
    }
    if prompt.method is Method.ENSEMBLE:
        # In no other manifest: those that were written before there were ensembles keep their bytes.
        document["ensemble"] = {"members": list(prompt.members), "vote": prompt.vote}
    try:
        check_layout(prompt)
        data = render_document(document)
        # What is written must be readable: the reader's rules are checked here, while it can be mended.
        _read(parse_document(data, limit=MAX_MANIFEST), prompt.tensors)
    except ValueError as error:
        raise InvalidArtifactError("the manifest", str(error), _SHORTEN) from error
    return data


def read_manifest(
    data: bytes, tensors: Mapping[str, Tensor], *, where: str = "the manifest"
) -> Manifest:
    """Read what ``manifest_bytes`` wrote.

    Args:
        data: The manifest's bytes.
        tensors: The tensors that it describes, already read from their own object.
        where: What to call it in an error: its path.

    Raises:
        InvalidArtifactError: It is none, describes other tensors, or was written by a newer release.
    """
    try:
        return _read(parse_document(data, limit=MAX_MANIFEST), tensors)
    except _NewerError as error:
        raise InvalidArtifactError(where, str(error), _UPGRADE) from error
    except ValueError as error:
        raise InvalidArtifactError(where, str(error), _PULL) from error


class _NewerError(ValueError):
    """A release after this one wrote it."""


def _read(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Manifest:
    """Read version 1. Fields that it does not know are ignored: what changes a meaning changes the version."""
    _check_format(document.get("format"))
    source = _field(document, "source", dict)
    described = _field(document, "tensors", dict)
    if _field(described, "entries", dict) != _entries(tensors):
        raise ValueError("it describes tensors of other names, dtypes or shapes")
    base = _field(document, "base", str, None)
    prompt = SoftPrompt(
        method=_name(Method, _field(document, "method", str)),
        tensors=tensors,
        num_virtual_tokens=_field(document, "num_virtual_tokens", int),
        token_dim=_field(document, "token_dim", int),
        num_layers=_field(document, "num_layers", int, None),
        task_type=_optional_name(TaskType, _field(document, "task_type", str, None)),
        placement=_name(Placement, _field(document, "placement", str)),
        template=_field(document, "template", str, None),
        labels=_texts(document, "labels"),
        init=_field(document, "init", str, None),
        hyperparameters=_hyperparameters(_field(document, "hyperparameters", dict)),
        source_format=_field(source, "format", str, None),
        source_config=_field(source, "config", dict),
        **_ensemble(document),
    )
    check_layout(prompt)
    return Manifest(
        prompt=prompt,
        base=None if base is None else Fingerprint(base),
        tensors=Digest(_field(described, "digest", str)),
        size=_field(described, "size", int),
    )


def _check_format(found: object) -> None:
    if found == _FORMAT:
        return
    if isinstance(found, str) and found.startswith(_FAMILY):
        raise _NewerError(f"it is written as {found[:60]!r}, and this release reads {_FORMAT!r}")
    raise ValueError(f"it is no manifest: its format is not {_FORMAT!r}")


def _field(document: Mapping[str, Any], key: str, *kinds: type | None) -> Any:
    """Return ``document[key]`` if it is of one of ``kinds``; None among them allows null."""
    if key not in document:
        raise ValueError(f"it lacks {key!r}")
    value = document[key]
    # type(), because a JSON true is an int to isinstance
    if (None if value is None else type(value)) not in kinds:
        wanted = " or ".join("null" if kind is None else kind.__name__ for kind in kinds)
        raise ValueError(f"its {key!r} is a {type(value).__name__}, not a {wanted}")
    return value


def _name(kind: type[_Name], found: str) -> _Name:
    try:
        return kind(found)
    except ValueError:
        known = ", ".join(kind)
        raise _NewerError(
            f"its {kind.__name__.lower()} is {found[:60]!r}, and this release knows {known}"
        ) from None


def _optional_name(kind: type[_Name], found: str | None) -> _Name | None:
    return None if found is None else _name(kind, found)


def _texts(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = _field(document, key, list)
    if not all(isinstance(text, str) for text in found):
        raise ValueError(f"its {key!r} are not all texts")
    return tuple(found)


def _ensemble(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what only an ensemble's manifest says."""
    if "ensemble" not in document:
        return {}
    described = _field(document, "ensemble", dict)
    return {
        "members": _texts(described, "members"),
        "vote": _name(Vote, _field(described, "vote", str)),
    }


def _hyperparameters(found: dict[str, Any]) -> dict[str, Any]:
    for name, value in found.items():
        if type(value) not in _SCALARS:
            raise ValueError(f"its hyperparameter {name[:60]!r} is neither a number nor a text")
    return found


def _entries(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    return {
        name: {"dtype": tensor.dtype, "shape": list(tensor.shape)}
        for name, tensor in sorted(tensors.items())
    }
