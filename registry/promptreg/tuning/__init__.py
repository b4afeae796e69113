"""Making soft prompts and measuring them: data, scores, evaluation. What runs a model needs torch.

Names are imported when they are first used: a name here costs nothing until then.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptreg.tuning.baselines import prompt_design
    from promptreg.tuning.data import Example, Examples, read_examples
    from promptreg.tuning.evaluating import Evaluation, evaluate
    from promptreg.tuning.inspecting import Inspection, inspect_prompt
    from promptreg.tuning.learners import Learner, Look, Outcome
    from promptreg.tuning.neighbours import Neighbour, Similar
    from promptreg.tuning.plans import DEFAULT_TEMPLATE, Plan
    from promptreg.tuning.recipes import Optimizer, Recipe, Schedule, expand, read_grid
    from promptreg.tuning.registering import check_learned, push_tuned
    from promptreg.tuning.reporting import Report, report
    from promptreg.tuning.scores import Score
    from promptreg.tuning.similarity import similar, similar_to
    from promptreg.tuning.tuned import Tuned, as_metrics
    from promptreg.tuning.tuning import tune
    from promptreg.tuning.watching import Watcher

_MODULES = {
    "DEFAULT_TEMPLATE": "plans",
    "Evaluation": "evaluating",
    "Example": "data",
    "Examples": "data",
    "Inspection": "inspecting",
    "Learner": "learners",
    "Look": "learners",
    "Neighbour": "neighbours",
    "Optimizer": "recipes",
    "Outcome": "learners",
    "Plan": "plans",
    "Recipe": "recipes",
    "Report": "reporting",
    "Schedule": "recipes",
    "Score": "scores",
    "Similar": "neighbours",
    "Tuned": "tuned",
    "Watcher": "watching",
    "as_metrics": "tuned",
    "check_learned": "registering",
    "evaluate": "evaluating",
    "expand": "recipes",
    "inspect_prompt": "inspecting",
    "prompt_design": "baselines",
    "push_tuned": "registering",
    "read_examples": "data",
    "read_grid": "recipes",
    "report": "reporting",
    "similar": "similarity",
    "similar_to": "similarity",
    "tune": "tuning",
}

__all__ = [
    "DEFAULT_TEMPLATE",
    "Evaluation",
    "Example",
    "Examples",
    "Inspection",
    "Learner",
    "Look",
    "Neighbour",
    "Optimizer",
    "Outcome",
    "Plan",
    "Recipe",
    "Report",
    "Schedule",
    "Score",
    "Similar",
    "Tuned",
    "Watcher",
    "as_metrics",
    "check_learned",
    "evaluate",
    "expand",
    "inspect_prompt",
    "prompt_design",
    "push_tuned",
    "read_examples",
    "read_grid",
    "report",
    "similar",
    "similar_to",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"promptreg.tuning.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'promptreg.tuning' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
