"""Recording and replaying canaries: does a base model still give the outputs that were seen at the push?

What counts as the same is measured, because neither of two simple answers will do. A tolerance of float noise
refuses every quantised base model, and those are what canaries are for; a fixed looser one lets wrong models
through, because how far honest rounding moves the outputs differs tenfold between base models and inputs.

So the tolerance is recorded with the outputs. The base model at hand runs twice more, its layers rounded in the
two ways that are common: weights to four bits, and weights and activations to eight. Twice what the gentler one
changes is tolerated. What changes is counted as the root of the mean square over all kept outputs, relative to
their spread, without each row's mean, which no softmax sees.

On Gemma 3 270M that tolerates 0.22. Weights in int8 by rows are 0.01 off, in 4 bits 0.11, PyTorch's dynamic
int8 is 0.20; noise as large as the weights in the first layer is 0.62, in the last 0.27. Such noise in a middle
layer is 0.22, as much as dynamic int8: a canary judges what a base model does, not which weights do it.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from promptreg.canaries import Canary, CanaryOutcome
from promptreg.errors import CanaryError, ConfigurationError
from promptreg.models.anatomy import Anatomy, Kind, examine
from promptreg.models.attached import AttachedPrompt
from promptreg.models.prompted import PromptedModel
from promptreg.models.reports import AttachReport, Policy
from promptreg.models.rounding import EIGHT_BITS, FOUR_BITS, rounded_view
from promptreg.models.virtual import VirtualTokens, load_virtual_tokens
from promptreg.prompts import Method, PulledPrompt, SoftPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["record_canary", "replay_canary"]

_INPUTS = 4
_LENGTH = 12
_LONGEST = 64
_LARGEST = 32
_OTHERS = 32
_MARGIN = 2.0
_LEAST, _MOST = 0.05, 0.5
_UNMEASURED = 0.25


def record_canary(
    model: nn.Module,
    prompt: SoftPrompt,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    texts: Sequence[str] | None = None,
) -> Canary:
    """Run prompt and base model on a few inputs, and keep the outputs that show whether both are themselves.

    Of each input's last position (the first decoder step, or a classifier's logits) the 32 largest outputs are
    kept and 32 others, drawn once for all.

    Args:
        model: The base model that the prompt was trained on.
        prompt: The soft prompt. Of a multitask prompt, its first task is taken.
        tokenizer: The base model's tokenizer; needed for ``texts``.
        texts: Inputs of the prompt's task, four or so. Without them, inputs are drawn: the same ones for every
            vocabulary of that size, each of which a decoder then continues by itself, because on tokens that
            make no text at all rounding errors grow fourfold.

    Raises:
        CanaryError: The outputs are not finite.
        ConfigurationError: There are texts and no tokenizer, or no text has any tokens.
        IncompatibleModelError: The prompt does not fit the base model.
    """
    _check_single(prompt)
    anatomy = examine(model)
    virtual = _load(prompt, anatomy)
    inputs = _drawn(anatomy) if texts is None else _tokenized(prompt, texts, tokenizer)
    outputs = _run(anatomy, virtual, inputs)
    if not bool(outputs.isfinite().all()):
        raise CanaryError(
            "this prompt",
            "on this base model its outputs are not finite",
            "check the prompt's values, and that the base model is the one that it was trained on",
        )
    positions = _choose(outputs)
    kept = outputs.gather(1, positions)
    return Canary(
        input_ids=tuple(map(tuple, inputs)),
        positions=tuple(map(tuple, positions.tolist())),
        outputs=tuple(map(tuple, kept.tolist())),
        dtype=str(anatomy.dtype).removeprefix("torch."),
        tolerance=_tolerance(anatomy, virtual, inputs, positions, kept),
    )


def replay_canary(
    model: nn.Module, prompt: PulledPrompt | SoftPrompt, canary: Canary | None = None
) -> CanaryOutcome:
    """Compare what prompt and base model give with what was recorded.

    Args:
        model: The base model at hand.
        prompt: The prompt.
        canary: What was recorded; a pulled prompt brings it.

    Raises:
        CanaryError: Nothing was recorded.
        IncompatibleModelError: The prompt does not fit the base model.
    """
    reference = "this prompt"
    if isinstance(prompt, PulledPrompt):
        reference = prompt.version.ref
        canary = prompt.canary if canary is None else canary
        prompt = prompt.prompt
    _check_single(prompt)
    if canary is None:
        raise CanaryError(
            reference,
            "none was recorded when it was pushed",
            "push it again with the base model at hand (--base DIRECTORY), or attach with another policy",
        )
    anatomy = examine(model)
    virtual = _load(prompt, anatomy)
    deviation = float("inf")
    if max(map(max, canary.input_ids)) < anatomy.vocab_size:
        outputs = _run(anatomy, virtual, canary.input_ids)
        positions = torch.tensor(canary.positions)
        if int(positions.max()) < outputs.shape[1] and bool(outputs.isfinite().all()):
            deviation = _deviation(torch.tensor(canary.outputs), outputs.gather(1, positions))
    return CanaryOutcome(
        deviation=deviation, tolerance=canary.tolerance, inputs=len(canary.input_ids)
    )


def _check_single(prompt: SoftPrompt) -> None:
    if prompt.method is Method.ENSEMBLE:
        raise CanaryError(
            "this ensemble",
            "its members vote on answers, and none of them is the whole",
            f"ask its members for theirs: {', '.join(prompt.members)}",
        )


def _load(prompt: SoftPrompt, anatomy: Anatomy) -> VirtualTokens:
    first = 0 if prompt.method is Method.MULTITASK_PROMPT_TUNING else None
    return load_virtual_tokens(prompt, anatomy, task_id=first)


def _run(anatomy: Anatomy, virtual: VirtualTokens, inputs: Sequence[Sequence[int]]) -> Tensor:
    """Return [B, V] The outputs at the last position of each of the B inputs, float32 on the CPU."""
    length = max(map(len, inputs))
    ids = torch.tensor([[0] * (length - len(row)) + list(row) for row in inputs])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in inputs])
    arguments: dict[str, Any] = dict(_last_only(anatomy))
    if anatomy.kind is Kind.ENCODER_DECODER and not anatomy.pooled:
        start = _decoder_start(anatomy)
        arguments["decoder_input_ids"] = torch.full((len(ids), 1), start, device=anatomy.device)
    attached = AttachedPrompt(
        name="canary", report=AttachReport(policy=Policy.UNCHECKED), tokens=(virtual,)
    )
    prompted = PromptedModel(anatomy, prompts=[attached])
    with prompted, torch.no_grad():
        output = prompted(ids.to(anatomy.device), mask.to(anatomy.device), **arguments)
    return _last(output, pooled=anatomy.pooled).float().cpu()


def _last(output: Any, *, pooled: bool) -> Tensor:
    """Return [B, V] What ``output`` says of the last position."""
    if output.get("logits") is not None:
        logits: Tensor = output["logits"]
        return logits if pooled else logits[:, -1]
    if output.get("start_logits") is not None:
        return torch.stack([output["start_logits"][:, -1], output["end_logits"][:, -1]], dim=1)
    states: Tensor = output["last_hidden_state"]
    return states[:, -1]


def _decoder_start(anatomy: Anatomy) -> int:
    for config in (anatomy.model.generation_config, anatomy.model.config):
        start = getattr(config, "decoder_start_token_id", None)
        if start is not None:
            return int(start)
    return 0


def _tokenized(
    prompt: SoftPrompt, texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase | None"
) -> list[list[int]]:
    if tokenizer is None:
        raise ConfigurationError(
            "texts", f"{len(texts)} texts", "there is no tokenizer to read them", "pass tokenizer="
        )
    filled = [(prompt.template or "{text}").replace("{text}", text) for text in texts]
    rows = [list(tokenizer(text)["input_ids"])[:_LONGEST] for text in filled]
    if not any(rows):
        raise ConfigurationError(
            "texts", repr(texts[:1]), "no text has any tokens", "pass other texts"
        )
    return [row for row in rows if row]


def _drawn(anatomy: Anatomy) -> list[list[int]]:
    """Return inputs that follow from the vocabulary's size and, for a decoder, from how it goes on."""
    if anatomy.kind is not Kind.DECODER or not anatomy.model.can_generate():
        return [
            [_draw(anatomy.vocab_size, row, at) for at in range(_LENGTH)] for row in range(_INPUTS)
        ]
    first = anatomy.model.generation_config.bos_token_id
    if first is not None and first >= anatomy.vocab_size:
        first = None  # a default of its class's, which this vocabulary does not reach
    starts = [[first, _draw(anatomy.vocab_size, row)] for row in range(_INPUTS)]
    # Without a first token that it knows, a model is at a loss, and rounding errors grow here too.
    ids = torch.tensor([[token for token in row if token is not None] for row in starts])
    return _continued(anatomy, ids.to(anatomy.device))


@torch.no_grad()
def _continued(anatomy: Anatomy, ids: Tensor) -> list[list[int]]:
    """Return the bare base model's own continuation of ``ids`` [B, T], greedily, with them in front."""
    model: Any = anatomy.model
    new, cache = ids, None
    for _ in range(_LENGTH - ids.shape[1]):
        output = model(new, past_key_values=cache, use_cache=True, **_last_only(anatomy))
        cache, new = output.past_key_values, output.logits[:, -1:].argmax(dim=-1)
        ids = torch.cat([ids, new], dim=1)
    rows: list[list[int]] = ids.tolist()
    return rows


def _last_only(anatomy: Anatomy) -> dict[str, int]:
    """Return what keeps a model from computing logits that nobody looks at."""
    return {"logits_to_keep": 1} if "logits_to_keep" in anatomy.accepts else {}


def _draw(size: int, *place: int) -> int:
    """Return a number below ``size`` that is always the same for that place."""
    digest = hashlib.sha256(f"promptreg.canary/1 {size} {place}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % size


def _choose(outputs: Tensor) -> Tensor:
    """Return [B, N] Which of the outputs [B, V] to keep."""
    width = outputs.shape[1]
    if width <= _LARGEST + _OTHERS:
        return torch.arange(width).expand(len(outputs), -1)
    others = torch.tensor([_draw(width, at) for at in range(_OTHERS)])
    largest = outputs.topk(_LARGEST, dim=1).indices
    return torch.cat([largest, others.expand(len(outputs), -1)], dim=1)


def _tolerance(
    anatomy: Anatomy,
    virtual: VirtualTokens,
    inputs: Sequence[Sequence[int]],
    positions: Tensor,
    kept: Tensor,
) -> float:
    """Return how far outputs may be off: twice what the gentler of two quantisations changes."""
    changes = []
    for rounding in (FOUR_BITS, EIGHT_BITS):
        view = rounded_view(anatomy.model, rounding)
        if view is None:
            return _UNMEASURED
        rounded = _run(replace(anatomy, model=view, call=view), virtual, inputs)
        changes.append(_deviation(kept, rounded.gather(1, positions)))
    changes = [change for change in changes if math.isfinite(change)]
    if not changes:
        return _UNMEASURED
    return min(max(_MARGIN * min(changes), _LEAST), _MOST)


def _deviation(expected: Tensor, actual: Tensor) -> float:
    """Return how far ``actual`` [B, N] is from ``expected`` [B, N], relative to the spread of ``expected``."""
    if expected.shape[1] > 1:
        expected, actual = (
            outputs - outputs.mean(dim=1, keepdim=True) for outputs in (expected, actual)
        )
    off = (expected - actual).square().sum().sqrt()
    return float(off / expected.square().sum().sqrt().clamp(min=torch.finfo(torch.float32).tiny))
