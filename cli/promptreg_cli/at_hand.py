"""The base model that a person names: a directory, or one that is registered."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from promptreg_cli import output

if TYPE_CHECKING:
    from promptreg.bases import BaseModel
    from promptreg.prompts import PulledPrompt
    from promptreg.registry import Registry

__all__ = ["directory", "fingerprint", "name", "pull_for", "quiet_transformers", "registered"]


def directory(base: str) -> Path | None:
    """Return ``base`` as a directory if one is there, else None: then it names a registered one."""
    if not base:
        raise click.UsageError("--base is empty: name a directory or a registered base model")
    path = Path(base).expanduser()
    return path if path.is_dir() else None


def fingerprint(path: Path, *, name: str | None = None, cache: bool = True) -> "BaseModel":
    """Fingerprint the base model in ``path``, with a progress bar if it takes a while."""
    from promptreg.models import from_files

    quiet_transformers()
    with output.progress(f"fingerprinting {path.name}") as advance:
        return from_files(path, name=name, cache=cache, progress=advance)


def name(registry: "Registry", base: "BaseModel") -> "BaseModel":
    """Return ``base`` named after its directory if it is new and the name is a good one and free."""
    from promptreg.errors import InvalidNameError
    from promptreg.names import check_base_name

    known = registry.bases()
    taken = {other.name: other for other in known}
    namesake = taken.get(base.source)
    if namesake is not None and namesake.fingerprint != base.fingerprint:
        output.note(f"this directory holds another model than {namesake}, which has its name")
    if any(other.fingerprint == base.fingerprint for other in known) or base.source in taken:
        return base
    try:
        return replace(base, name=check_base_name(base.source or ""))
    except InvalidNameError:
        return base


def registered(base: str | None) -> str | None:
    """Return what the registry knows ``base`` by: a directory is fingerprinted first."""
    at = directory(base) if base is not None else None
    return base if at is None else str(fingerprint(at).fingerprint)


def pull_for(registry: "Registry", reference: str, fingerprint: str) -> "PulledPrompt":
    """Pull ``reference`` for the base model at hand; if there is none for it, for whatever it stands for.

    The comparison that follows then says what differs, which is more than that nothing was found.
    """
    from promptreg.errors import BaseModelNotFoundError, ConflictError, PromptNotFoundError

    try:
        return registry.pull(reference, base=fingerprint)
    except (BaseModelNotFoundError, ConflictError, PromptNotFoundError):
        return registry.pull(reference)


def quiet_transformers() -> None:
    """Keep transformers' own advice and bars off the screen: ours say what matters here."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
