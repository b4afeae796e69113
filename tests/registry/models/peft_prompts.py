"""Prompts that PEFT made on the tiny models, beside the PEFT models that they came from."""

import copy
import tempfile
import warnings
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor
from transformers import PreTrainedModel

from promptreg import artifacts
from promptreg.canaries import Canary
from promptreg.digests import Digest
from promptreg.models import from_module
from promptreg.prompts import PromptVersion, PulledPrompt, SoftPrompt, TaskType
from registry.models.architectures import ARCHITECTURES, VOCAB_SIZE, make

__all__ = ["TOKENS", "Pair", "left_padded", "pair_of", "pull", "right_padded", "rows_alone"]

TOKENS = 5
_TASKS = {"causal": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM", "encoder": "SEQ_CLS"}
_CONFIGS = {
    "PROMPT_TUNING": "PromptTuningConfig",
    "P_TUNING": "PromptEncoderConfig",
    "PREFIX_TUNING": "PrefixTuningConfig",
    "MULTITASK_PROMPT_TUNING": "MultitaskPromptTuningConfig",
    "CPT": "CPTConfig",
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "MULTITASK_PROMPT_TUNING": {"num_tasks": 3, "num_ranks": 2},
    "P_TUNING": {"encoder_hidden_size": 16},
    "CPT": {
        "cpt_token_ids": list(range(10, 10 + TOKENS)),
        "cpt_mask": [1] * TOKENS,
        "cpt_tokens_type_mask": [1, 2, 2, 3, 4],
    },
}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A soft prompt, and the PEFT model that it was saved by.

    Attributes:
        base: The base model, which PEFT has not touched.
        peft_model: A copy of it, as PEFT loads it with the prompt.
        prompt: What PEFT saved, read back.
    """

    base: PreTrainedModel = field(repr=False)
    peft_model: Any = field(repr=False)
    prompt: SoftPrompt


@cache
def pair_of(
    name: str, kind: str, task: str | None = None, as_class: str | None = None, **changes: Any
) -> Pair:
    """Let PEFT make a prompt, with random values, on the tiny model ``name``.

    Args:
        name: A key of ``ARCHITECTURES``.
        kind: PEFT's name for the method.
        task: PEFT's name for the task; None for what the model is made for.
        as_class: The class to build, by its name in ``transformers``; the one with a head if None.
        changes: Changes to the base model's config.
    """
    base = make(name, as_class=as_class, **changes)
    config: Any = getattr(peft, _CONFIGS[kind])(
        task_type=task or _TASKS[ARCHITECTURES[name].kind],
        num_virtual_tokens=TOKENS,
        **_SETTINGS.get(kind, {}),
    )
    with (
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory() as directory,
        torch.random.fork_rng(),
    ):
        warnings.simplefilter("ignore")  # PEFT's own, about what it saves
        torch.manual_seed(0)  # PEFT draws from the generator that everybody draws from
        made: Any = peft.get_peft_model(copy.deepcopy(base), config).eval()
        _fill(made)
        made.save_pretrained(directory)
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), directory).eval()
        return Pair(base=base, peft_model=loaded, prompt=artifacts.read(Path(directory)))


def pull(base: PreTrainedModel, prompt: SoftPrompt, canary: Canary | None = None) -> PulledPrompt:
    """Return ``prompt`` as if it had been pushed for ``base`` and pulled."""
    facts = from_module(base)
    version = PromptVersion(
        task="sst2",
        version=3,
        base=facts.fingerprint,
        digest=Digest.of(b"prompt"),
        size=6,
        manifest=Digest.of(b"manifest"),
        method=prompt.method,
        task_type=prompt.task_type or TaskType.CAUSAL_LM,
        placement=prompt.placement,
        num_virtual_tokens=prompt.num_virtual_tokens,
        token_dim=prompt.token_dim,
        pushed_by="ada",
        pushed_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return PulledPrompt(version=version, prompt=prompt, base=facts, canary=canary)


def right_padded(*lengths: int, seed: int = 0) -> dict[str, Any]:
    """Return ``input_ids`` and ``attention_mask`` [B, T] of rows that long (9, 6, 3), padded behind."""
    lengths = lengths or (9, 6, 3)
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(3, VOCAB_SIZE, shape, generator=generator)
    return {"input_ids": ids * mask, "attention_mask": mask}


def left_padded(*lengths: int, seed: int = 0) -> dict[str, Any]:
    """Return the rows of ``right_padded``, padded in front."""
    batch = right_padded(*lengths, seed=seed)
    order = batch["attention_mask"].argsort(dim=1, stable=True)
    return {name: tensor.gather(1, order) for name, tensor in batch.items()}


def rows_alone(batch: dict[str, Tensor]) -> list[Tensor]:
    """Return each row's ``input_ids`` [1, T] without its padding."""
    return [
        ids[mask == 1][None]
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


def _fill(peft_model: Any) -> None:
    """Give what PEFT would train values that are worth comparing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if parameter.requires_grad or "prompt_encoder" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
