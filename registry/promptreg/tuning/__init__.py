"""Making soft prompts and measuring them: data, scores, evaluation. What runs a model needs torch.

Names are imported when they are first used: a name here costs nothing until then.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptreg.tuning.data import Example, Examples, read_examples
    from promptreg.tuning.evaluating import evaluate
    from promptreg.tuning.scores import Score

_MODULES = {
    "Example": "data",
    "Examples": "data",
    "Score": "scores",
    "evaluate": "evaluating",
    "read_examples": "data",
}

__all__ = ["Example", "Examples", "Score", "evaluate", "read_examples"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"promptreg.tuning.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'promptreg.tuning' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
