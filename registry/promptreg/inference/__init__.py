"""Many tasks on one frozen base model: mixed-task batches in this process, and on vLLM beyond it.

In this process it is a ``PromptedModel``, which ``attach`` makes: each row of a batch names its prompt, and
``follow`` keeps it up with the registry. ``promptreg.inference.vllm`` gives prompts to vLLM.

Names are imported when they are first used: a name here costs nothing until then.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptreg.answers import Answer
    from promptreg.inference.following import Follower, follow
    from promptreg.models import AttachedPrompt, PromptedModel, attach

_MODULES = {
    "Answer": "promptreg.answers",
    "AttachedPrompt": "promptreg.models",
    "Follower": "promptreg.inference.following",
    "PromptedModel": "promptreg.models",
    "attach": "promptreg.models",
    "follow": "promptreg.inference.following",
}

__all__ = [
    "Answer",
    "AttachedPrompt",
    "Follower",
    "PromptedModel",
    "attach",
    "follow",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'promptreg.inference' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
