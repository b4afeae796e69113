"""promptreg: a registry and artifact service for trained soft prompts.

Names are imported when they are first used, so that ``import promptreg`` is quick and nothing needs torch
before a model is at hand.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptreg.answers import Answer
    from promptreg.bases import BaseModel
    from promptreg.canaries import Canary
    from promptreg.digests import Digest
    from promptreg.errors import PromptregError
    from promptreg.fingerprints import Comparison, Fingerprint, Verdict, WeightTable, compare
    from promptreg.inference import Follower, follow
    from promptreg.models import (
        AttachedPrompt,
        AttachReport,
        PromptedModel,
        attach,
        from_files,
        from_module,
        record_canary,
        replay_canary,
    )
    from promptreg.names import Reference
    from promptreg.prompts import (
        Method,
        Placement,
        PromptVersion,
        PulledPrompt,
        SoftPrompt,
        TaskType,
        Tensor,
        Vote,
    )
    from promptreg.pushing import Pushed
    from promptreg.registry import Registry
    from promptreg.results import Result

_MODULES = {
    "Answer": "answers",
    "AttachReport": "models",
    "AttachedPrompt": "models",
    "BaseModel": "bases",
    "Canary": "canaries",
    "Comparison": "fingerprints",
    "Digest": "digests",
    "Fingerprint": "fingerprints",
    "Follower": "inference",
    "Method": "prompts",
    "Placement": "prompts",
    "PromptVersion": "prompts",
    "PromptedModel": "models",
    "PromptregError": "errors",
    "PulledPrompt": "prompts",
    "Pushed": "pushing",
    "Reference": "names",
    "Registry": "registry",
    "Result": "results",
    "SoftPrompt": "prompts",
    "TaskType": "prompts",
    "Tensor": "prompts",
    "Verdict": "fingerprints",
    "Vote": "prompts",
    "WeightTable": "fingerprints",
    "attach": "models",
    "compare": "fingerprints",
    "follow": "inference",
    "from_files": "models",
    "from_module": "models",
    "record_canary": "models",
    "replay_canary": "models",
}

__all__ = [
    "Answer",
    "AttachReport",
    "AttachedPrompt",
    "BaseModel",
    "Canary",
    "Comparison",
    "Digest",
    "Fingerprint",
    "Follower",
    "Method",
    "Placement",
    "PromptVersion",
    "PromptedModel",
    "PromptregError",
    "PulledPrompt",
    "Pushed",
    "Reference",
    "Registry",
    "Result",
    "SoftPrompt",
    "TaskType",
    "Tensor",
    "Verdict",
    "Vote",
    "WeightTable",
    "attach",
    "compare",
    "follow",
    "from_files",
    "from_module",
    "record_canary",
    "replay_canary",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"promptreg.{_MODULES[name]}"), name)
    if name in {"artifacts", "errors", "inference"}:
        return import_module(f"promptreg.{name}")
    raise AttributeError(f"module 'promptreg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
