"""PEFT's ``adapter_config.json``, written so that PEFT loads it."""

import json
from collections.abc import Iterator
from typing import Any

from promptreg.artifacts.peft_config import BOTH, PEFT_TYPES, count_submodules
from promptreg.bases import BaseModel
from promptreg.layouts import (
    DECODER_PREFIX,
    MODULES_PREFIX,
    PROMPT_EMBEDDINGS,
    TASK_ROWS,
    trained_modules,
)
from promptreg.prompts import Method, SoftPrompt, TaskType

__all__ = ["write_config"]

_PEFT_NAMES = {method: name for name, method in PEFT_TYPES.items()}
# PEFT opens another file when it loads a prompt with one of these: a step that is long done.
_INITS_FROM_FILES = {"AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK", "ONLY_SOURCE_SHARED"}


def write_config(prompt: SoftPrompt, base: BaseModel | None) -> tuple[bytes, list[str]]:
    """Return an ``adapter_config.json`` for ``prompt``, written as PEFT writes it, and what to say about it."""
    known = prompt.source_format == "peft"
    document = dict(prompt.source_config) if known else _defaults(prompt, base)
    document["num_virtual_tokens"] = prompt.num_virtual_tokens
    document["token_dim"] = prompt.token_dim
    if base is not None and not document.get("base_model_name_or_path"):
        document["base_model_name_or_path"] = base.source or base.name
    document["task_type"] = prompt.task_type or document.get("task_type") or _likely_task_type(base)
    notes = [
        *_settle_task_type(document),
        *_settle_submodules(prompt, document),
        *_settle_init(document),
    ]
    return json.dumps(document, indent=2, sort_keys=True).encode(), notes


def _settle_task_type(document: dict[str, Any]) -> Iterator[str]:
    if document["task_type"] is None:
        yield (
            "the task type is not known: set task_type in adapter_config.json before "
            "AutoPeftModel loads it"
        )


def _settle_submodules(prompt: SoftPrompt, document: dict[str, Any]) -> Iterator[str]:
    found = count_submodules(document)
    # Prefix tuning has one tensor, which PEFT uses twice in an encoder-decoder.
    both = prompt.method is Method.PREFIX_TUNING or _has_decoder(prompt)
    document["num_transformer_submodules"] = found if both else 1
    if found == BOTH and not both and prompt.source_format == "peft":
        yield (
            "num_transformer_submodules is 1, not 2: the prompt comes without the rows that PEFT "
            "saves for the decoder, but neither trains nor reads"
        )


def _has_decoder(prompt: SoftPrompt) -> bool:
    return DECODER_PREFIX + PROMPT_EMBEDDINGS in prompt.tensors


def _settle_init(document: dict[str, Any]) -> Iterator[str]:
    found = document.get("prompt_tuning_init")
    if found in _INITS_FROM_FILES:
        document |= {"prompt_tuning_init": "RANDOM", "prompt_tuning_init_state_dict_path": None}
        yield (
            f"prompt_tuning_init is RANDOM, not {found}: PEFT would look for the file of the source "
            "prompt again each time that it loads this one"
        )


def _defaults(prompt: SoftPrompt, base: BaseModel | None) -> dict[str, Any]:
    """Return a whole configuration for a prompt that PEFT never saw; what is None, PEFT takes from the base."""
    common = {
        "auto_mapping": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "modules_to_save": _module_names(prompt),
        "num_attention_heads": None,
        "num_layers": prompt.num_layers or (base.num_layers if base else None),
        "num_transformer_submodules": BOTH if _has_decoder(prompt) else None,
        "num_virtual_tokens": prompt.num_virtual_tokens,
        "peft_type": _PEFT_NAMES[prompt.method],
        "peft_version": None,
        "revision": base.revision if base else None,
        "task_type": None,
        "token_dim": prompt.token_dim,
    }
    return common | _defaults_of(prompt)


def _defaults_of(prompt: SoftPrompt) -> dict[str, Any]:
    from_text = {
        "prompt_tuning_init": "RANDOM",  # TEXT would make PEFT look for a tokenizer
        "prompt_tuning_init_text": None,
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    }
    if prompt.method is Method.PROMPT_TUNING:
        return from_text
    if prompt.method is Method.MULTITASK_PROMPT_TUNING:
        tasks, rank, _ = prompt.tensors[TASK_ROWS].shape
        return from_text | {
            "num_ranks": rank,
            "num_tasks": tasks,
            "prompt_tuning_init_state_dict_path": None,
            "prompt_tuning_init_task": 0,
        }
    if prompt.method is Method.P_TUNING:
        return {
            "encoder_dropout": 0.0,
            "encoder_hidden_size": prompt.token_dim,
            "encoder_num_layers": 2,
            "encoder_reparameterization_type": "MLP",
        }
    if prompt.method is Method.PREFIX_TUNING:
        return {
            "encoder_hidden_size": prompt.token_dim,
            "init_weights": None,
            "prefix_projection": False,
        }
    ones = [1] * prompt.num_virtual_tokens
    return {
        "cpt_mask": ones,
        "cpt_token_ids": [0] * prompt.num_virtual_tokens,  # read only when training begins
        "cpt_tokens_type_mask": ones,
        "opt_loss_decay_factor": 1.0,
        "opt_projection_epsilon": 0.1,
        "opt_projection_format_epsilon": 0.1,
        "opt_weighted_loss_type": "none",
        "tokenizer_name_or_path": None,
    }


def _module_names(prompt: SoftPrompt) -> list[str] | None:
    """Return the names of the trained modules, by the names that PEFT gives to their tensors."""
    keys = (name.removeprefix(MODULES_PREFIX) for name in trained_modules(prompt))
    names = {key.removeprefix("base_model.").rpartition(".")[0] for key in keys}
    return sorted(names) or None


def _likely_task_type(base: BaseModel | None) -> str | None:
    if base is None:
        return None
    if base.encoder_decoder:
        return TaskType.SEQ_2_SEQ_LM.value
    return TaskType.CAUSAL_LM.value if base.architecture.endswith("ForCausalLM") else None
