"""Base models at hand: what they are, whether a prompt fits, and using it. Needs torch and transformers.

Names are imported when they are first used: a name here costs nothing until then.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptreg.models.attached import AttachedPrompt
    from promptreg.models.attaching import attach
    from promptreg.models.canary import record_canary, replay_canary
    from promptreg.models.fingerprinting import from_files, from_module
    from promptreg.models.loading import load_base, load_to_train
    from promptreg.models.prompted import PromptedModel
    from promptreg.models.reports import AttachReport, Policy

_MODULES = {
    "AttachReport": "reports",
    "AttachedPrompt": "attached",
    "Policy": "reports",
    "PromptedModel": "prompted",
    "attach": "attaching",
    "from_files": "fingerprinting",
    "from_module": "fingerprinting",
    "load_base": "loading",
    "load_to_train": "loading",
    "record_canary": "canary",
    "replay_canary": "canary",
}

__all__ = [
    "AttachReport",
    "AttachedPrompt",
    "Policy",
    "PromptedModel",
    "attach",
    "from_files",
    "from_module",
    "load_base",
    "load_to_train",
    "record_canary",
    "replay_canary",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"promptreg.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'promptreg.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
