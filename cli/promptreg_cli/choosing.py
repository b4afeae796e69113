"""Which versions several references stand for, and which of the base models at hand each one is for."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from promptreg_cli import at_hand, output

if TYPE_CHECKING:
    from promptreg.prompts import PromptVersion
    from promptreg.registry import Registry

__all__ = ["Place", "has_wildcards", "places", "versions"]

_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A base model at hand.

    Attributes:
        path: Its directory.
        fingerprint: Which one it is.
        name: What to call it.
    """

    path: Path
    fingerprint: str
    name: str


def places(registry: "Registry", directories: Sequence[Path]) -> list[Place]:
    """Return the base models in ``directories``, each once, by their registered names if they have some."""
    names = {str(base.fingerprint): base.name for base in registry.bases()}
    found: dict[str, Place] = {}
    for path in directories:
        fingerprint = str(at_hand.fingerprint(path).fingerprint)
        if fingerprint in found:
            output.note(f"{path} holds the base model of {found[fingerprint].path} once more")
            continue
        name = names.get(fingerprint) or path.resolve().name
        if any(name == place.name for place in found.values()):
            name = str(path)
        found[fingerprint] = Place(path=path, fingerprint=fingerprint, name=name)
    return list(found.values())


def has_wildcards(reference: str) -> bool:
    """Return whether ``reference`` may stand for several versions."""
    return "*" in reference or "?" in reference


def versions(
    registry: "Registry", reference: str, at: Sequence[Place]
) -> "Sequence[PromptVersion]":
    """Return the versions that ``reference`` stands for: one for each base model at hand that it has one for.

    ``TASK@SELECTOR`` with ``*`` or ``?`` stands for all versions of the matching tasks that were not yanked and
    whose number or alias matches; without ``@``, any does.

    Raises:
        PromptregError: It stands for none, or cannot be understood.
    """
    from promptreg.errors import BaseModelNotFoundError, ConflictError, PromptNotFoundError

    if has_wildcards(reference):
        return _matching(registry, reference)
    found = []
    for place in at:
        try:
            found.append(registry.resolve(reference, base=place.fingerprint))
        except (BaseModelNotFoundError, ConflictError, PromptNotFoundError):
            continue
    return found or [registry.resolve(reference)]


def _matching(registry: "Registry", reference: str) -> "Sequence[PromptVersion]":
    from promptreg.errors import PromptNotFoundError

    task, _, selector = reference.partition("@")
    found: list[PromptVersion] = []
    page = registry.list(task, limit=_PAGE)
    found.extend(page.versions)
    while page.next is not None:
        page = registry.list(task, limit=_PAGE, after=page.next)
        found.extend(page.versions)
    wanted = [each for each in found if _is_meant(each, selector or "*")]
    if not wanted:
        raise PromptNotFoundError(reference, "no version that is not yanked matches")
    return sorted(wanted, key=lambda version: (version.task, version.version))


def _is_meant(version: "PromptVersion", selector: str) -> bool:
    return any(fnmatchcase(each, selector) for each in (str(version.version), *version.aliases))
