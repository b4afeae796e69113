"""PEFT's ``adapter_config.json``, read with its types checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from promptreg.documents import parse_document
from promptreg.errors import InvalidArtifactError
from promptreg.layouts import TASK_ROWS
from promptreg.prompts import Method, Scalar, SoftPrompt, TaskType

__all__ = [
    "BOTH",
    "CONFIG",
    "MAX_CONFIG",
    "PEFT_TYPES",
    "SAVE_AGAIN",
    "PeftConfig",
    "count_submodules",
]

CONFIG = "adapter_config.json"
MAX_CONFIG = 128 * 2**10
"""The longest configuration that is read, in bytes."""
SAVE_AGAIN = "save the prompt again with PEFT's save_pretrained, or fetch an undamaged copy"
"""What mends a directory that breaks PEFT's rules."""
BOTH = 2
"""A ``num_transformer_submodules`` that means encoder and decoder."""
PEFT_TYPES: dict[str, Method] = {
    method.value.upper().replace("-", "_"): method
    for method in Method
    if method is not Method.ENSEMBLE  # which only promptreg knows
}
"""Our names of the methods by PEFT's."""

# How PEFT initialised a prompt, in the words of the field.
_INITS = {
    "RANDOM": "random",
    "SAMPLE_VOCAB": "sampled-vocabulary",
    "TEXT": "text",
    "AVERAGE_SOURCE_TASKS": "average-source-tasks",
    "EXACT_SOURCE_TASK": "exact-source-task",
    "ONLY_SOURCE_SHARED": "only-source-shared",
}
# The keys of each method that a person filters on, and what the field calls them.
_HYPERPARAMETERS: dict[Method, dict[str, str]] = {
    Method.PROMPT_TUNING: {"prompt_tuning_init_text": "init_text"},
    Method.P_TUNING: {
        "encoder_reparameterization_type": "encoder_type",
        "encoder_hidden_size": "encoder_hidden_size",
        "encoder_num_layers": "encoder_num_layers",
        "encoder_dropout": "encoder_dropout",
    },
    Method.PREFIX_TUNING: {"prefix_projection": "prefix_projection"},
    Method.MULTITASK_PROMPT_TUNING: {
        "prompt_tuning_init_text": "init_text",
        "num_tasks": "num_tasks",
        "num_ranks": "num_ranks",
    },
    Method.CPT: {
        "opt_weighted_loss_type": "loss_weighting",
        "opt_loss_decay_factor": "loss_decay_factor",
        "opt_projection_epsilon": "projection_epsilon",
        "opt_projection_format_epsilon": "format_projection_epsilon",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftConfig:
    """What an ``adapter_config.json`` says, its types checked.

    Attributes:
        document: All of it, as it was read.
        method: Its ``peft_type``.
        task_type: Its task type, if it has one.
        num_virtual_tokens: P, if it says so.
        token_dim: H, or K for prefix tuning, if it says so.
        num_layers: L, if it says so.
        encoder_and_decoder: Whether PEFT keeps a prompt for each of the two, as it does unless told otherwise.
        modules_to_save: The names of the base's modules that were trained too.
    """

    document: Mapping[str, Any]
    method: Method
    task_type: TaskType | None
    num_virtual_tokens: int | None
    token_dim: int | None
    num_layers: int | None
    encoder_and_decoder: bool
    modules_to_save: tuple[str, ...]

    @classmethod
    def read(cls, data: bytes, where: str) -> "PeftConfig":
        """Read the bytes of an ``adapter_config.json``.

        Raises:
            InvalidArtifactError: They are none, or one of a method that promptreg does not read.
        """
        try:
            document = parse_document(data, limit=MAX_CONFIG)
            return cls(
                document=document,
                method=_method(document, where),
                task_type=_task_type(document),
                num_virtual_tokens=_natural(document, "num_virtual_tokens"),
                token_dim=_natural(document, "token_dim"),
                num_layers=_natural(document, "num_layers"),
                encoder_and_decoder=count_submodules(document) == BOTH,
                modules_to_save=_modules(document),
            )
        except InvalidArtifactError:
            raise
        except ValueError as error:
            raise InvalidArtifactError(where, str(error), SAVE_AGAIN) from error

    @property
    def init(self) -> str | None:
        """How the prompt was initialised, if that is said."""
        if self.method is Method.PREFIX_TUNING:
            return "zero" if self.document.get("init_weights") == "zero" else "random"
        if self.method is Method.CPT:
            return "text"
        found = self.document.get("prompt_tuning_init")
        return _INITS.get(found) if isinstance(found, str) else None

    @property
    def hyperparameters(self) -> dict[str, Scalar]:
        """What a person would filter on, by the field's names."""
        keys = _HYPERPARAMETERS[self.method]
        found = {"num_virtual_tokens": self.num_virtual_tokens, "init": self.init}
        found |= {name: self.document.get(key) for key, name in keys.items()}
        return {
            n: value for n, value in found.items() if isinstance(value, bool | int | float | str)
        }

    def check_numbers(self, prompt: SoftPrompt, where: str) -> None:
        """Return if what the configuration says beside the common keys fits the prompt's tensors.

        Raises:
            InvalidArtifactError: It does not.
        """
        found: dict[str, object] = {}
        wanted: dict[str, object] = {}
        if self.method is Method.MULTITASK_PROMPT_TUNING:
            found = {key: self.document.get(key) for key in ("num_tasks", "num_ranks")}
            tasks, rank, _ = prompt.tensors[TASK_ROWS].shape
            wanted = {"num_tasks": tasks, "num_ranks": rank}
        elif self.method is Method.CPT and isinstance(self.document.get("cpt_token_ids"), list):
            found = {"cpt_token_ids": len(self.document["cpt_token_ids"])}
            wanted = {"cpt_token_ids": prompt.num_virtual_tokens}
        for key, value in found.items():
            if value not in (None, wanted[key]):
                said = f"of {value} entries" if key == "cpt_token_ids" else str(value)[:60]
                reason = f"{CONFIG} has {key} {said}, and the tensors are made for {wanted[key]}"
                raise InvalidArtifactError(where, reason, SAVE_AGAIN)


def count_submodules(document: Mapping[str, Any]) -> int:
    """Return in how many places PEFT puts the prompt of a configuration: 1 or 2.

    Raises:
        ValueError: It says something else.
    """
    found = _natural(document, "num_transformer_submodules")
    if document.get("peft_type") == "CPT":  # which PEFT keeps at 1, whatever is written
        return 1
    if found is None:  # as PEFT fills it in
        return BOTH if document.get("task_type") == TaskType.SEQ_2_SEQ_LM else 1
    if found > BOTH:
        raise ValueError(f"its num_transformer_submodules is {found}, and 1 or 2 was expected")
    return found


def _method(document: Mapping[str, Any], where: str) -> Method:
    found = document.get("peft_type")
    if found is None:
        raise ValueError("it names no peft_type")
    if not isinstance(found, str) or found not in PEFT_TYPES:
        raise InvalidArtifactError(
            where,
            f"its peft_type is {str(found)[:60]!r}, which is no soft prompt that promptreg reads",
            f"those are {', '.join(sorted(PEFT_TYPES))}",
        )
    return PEFT_TYPES[found]


def _task_type(document: Mapping[str, Any]) -> TaskType | None:
    found = document.get("task_type")
    if found is None:
        return None
    if not isinstance(found, str) or found not in set(TaskType):
        raise ValueError(f"its task_type is {str(found)[:60]!r}, not one of {', '.join(TaskType)}")
    return TaskType(found)


def _natural(document: Mapping[str, Any], key: str) -> int | None:
    found = document.get(key)
    if found is not None and (type(found) is not int or found < 1):
        raise ValueError(
            f"its {key} is {str(found)[:60]!r}, and a number of 1 or more was expected"
        )
    return found


def _modules(document: Mapping[str, Any]) -> tuple[str, ...]:
    found = document.get("modules_to_save")
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(name, str) and name for name in found):
        raise ValueError("its modules_to_save is not a list of names")
    return tuple(dict.fromkeys(found))
