"""A small language model and three soft prompts trained on it, for ``promptreg demo``.

The base model completes lines: ``garden`` becomes ``garden -> garden``. With the prompt
``reverse`` in front the same frozen weights write ``garden -> nedrag``, with ``shout``
``garden -> GARDEN!``. All of it was made by ``python -m promptreg_cli.demo.make``, and
``metrics.json`` in each directory says how and how well.
"""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

__all__ = ["PROMPTS", "Record", "base_directory", "data_directory", "prompt_directory", "record"]

PROMPTS = ("reverse", "shout", "shout-backwards")
"""The names of the soft prompts. The base model knows an instruction for the first two only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """How a soft prompt was trained and how well it does.

    Attributes:
        description: What the prompt makes of a text.
        metrics: ``accuracy`` and others, measured on words that no training saw.
        hyperparameters: ``steps``, ``learning_rate``, ``seed`` and others.
        examples: Rows of input, answer without the prompt, answer with it.
    """

    description: str
    metrics: dict[str, float]
    hyperparameters: dict[str, int | float | str]
    examples: tuple[tuple[str, str, str], ...]


def data_directory() -> Path:
    """Return the directory of everything that was made."""
    return Path(str(resources.files(__name__).joinpath("data")))


def base_directory() -> Path:
    """Return the directory of the base model, as transformers writes and reads it."""
    return data_directory() / "base"


def prompt_directory(name: str) -> Path:
    """Return the directory of the soft prompt ``name``, as PEFT writes and reads it.

    Raises:
        ValueError: There is no such prompt in :data:`PROMPTS`.
    """
    if name not in PROMPTS:
        raise ValueError(f"the demo's prompts are {', '.join(PROMPTS)}, not {name!r}")
    return data_directory() / "prompts" / name


def record(name: str) -> Record:
    """Return how the soft prompt ``name`` was trained and how well it does."""
    content = json.loads((prompt_directory(name) / "metrics.json").read_text("utf-8"))
    return Record(
        description=content["description"],
        metrics=content["metrics"],
        hyperparameters=content["hyperparameters"],
        examples=tuple((e["input"], e["unprompted"], e["prompted"]) for e in content["examples"]),
    )
