"""The base model that a person names: a directory, or one that is registered."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from promptreg_cli import output

if TYPE_CHECKING:
    from promptreg.bases import BaseModel
    from promptreg.registry import Registry

__all__ = ["directory", "fingerprint", "name", "quiet_transformers"]


def directory(base: str) -> Path | None:
    """Return ``base`` as a directory if one is there, else None: then it names a registered one."""
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
    taken = {other.name for other in known}
    if any(other.fingerprint == base.fingerprint for other in known) or base.source in taken:
        return base
    try:
        return replace(base, name=check_base_name(base.source or ""))
    except InvalidNameError:
        return base


def quiet_transformers() -> None:
    """Keep transformers' own advice and bars off the screen: ours say what matters here."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
