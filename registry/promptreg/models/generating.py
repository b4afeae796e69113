"""What goes into ``generate`` with virtual tokens among it, and what comes out without them.

The base model's own ``generate`` runs. It takes token ids and embeddings together: embeddings (prompt and text)
for the first pass, ids (the text alone) for all that counts or reads tokens: lengths, logits processors,
streamers, the result.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from promptreg.errors import AttachError
from promptreg.models.anatomy import Anatomy
from promptreg.models.batches import Batch, check_window, past_length, read_batch, text_lengths
from promptreg.models.inputs import check_padding, prompted_positions, virtual_embeddings
from promptreg.models.mixing import MixedRows
from promptreg.models.placing import Alignment, Layout, lay_out
from promptreg.models.prefilling import (
    PrefilledDynamicCache,
    PrefilledStaticCache,
    StaticCaches,
    begins_prefilled,
)
from promptreg.models.virtual import VirtualRows

if TYPE_CHECKING:
    from transformers import GenerationConfig

__all__ = [
    "Settings",
    "can_prefill",
    "check_generates",
    "decoder_generation",
    "finish",
    "read_generation_batch",
    "refuse_unsupported",
    "rows_to_continue",
]

_GROWING = (None, "dynamic", "hybrid", "offloaded")
_DEFAULT_NEW_TOKENS = 20  # transformers' own, where neither a call nor a model says anything


class Settings:
    """The settings of one call of ``generate``: its arguments, then its config, then the model's."""

    def __init__(self, anatomy: Anatomy, arguments: Mapping[str, Any]) -> None:
        self.arguments = dict(arguments)
        given: GenerationConfig | None = self.arguments.get("generation_config")
        if given is not None:
            # The caller's own config stays as it is: lengths are changed in the copy.
            self.arguments["generation_config"] = copy.deepcopy(given)
        self._model_config = anatomy.model.generation_config

    def __getitem__(self, name: str) -> Any:
        value = self.asked(name)
        return getattr(self._model_config, name, None) if value is None else value

    def asked(self, name: str) -> Any:
        """Return what this call asked for, whatever the model's own setting; None if nothing."""
        value = self.arguments.get(name)
        config = self.arguments.get("generation_config")
        return getattr(config, name, None) if value is None else value

    def __setitem__(self, name: str, value: object) -> None:
        config = self.arguments.get("generation_config")
        if config is None:
            self.arguments[name] = value
        else:  # transformers warns where a config and arguments come together
            self.arguments.pop(name, None)
            setattr(config, name, value)


def check_generates(anatomy: Anatomy) -> None:
    """Return if the base model can generate at all.

    Raises:
        AttachError: It cannot.
    """
    if not anatomy.model.can_generate():
        raise AttachError(
            f"a {type(anatomy.model).__name__} has no output head to generate with",
            "load the base model with AutoModelForCausalLM or AutoModelForSeq2SeqLM",
        )


def can_prefill(settings: Settings) -> bool:
    """Return whether the cache that the settings ask for can begin with keys and values at hand."""
    cache = settings.arguments.get("past_key_values")
    return begins_prefilled(cache) and settings["cache_implementation"] in {*_GROWING, "static"}


def refuse_unsupported(settings: Settings, model_type: str) -> None:
    """Return if ``generate`` will see the prompt in the way that the settings ask for.

    Raises:
        AttachError: It would run the base model without its prompt, at some step at least.
    """
    for name, (what, remedy) in _UNSUPPORTED.items():
        if settings[name] not in (None, False):
            raise AttachError(
                f"{what} ({name}) would run the base model without its prompt", remedy
            )
    if settings["cache_implementation"] == "static" and model_type in _WRONG_STATIC:
        raise AttachError(
            f"a static cache gives other tokens than a growing one on a {model_type}, whose layers do not "
            "leave out its unused columns",
            "leave cache_implementation out",
        )
    if settings["cache_implementation"] == "paged":
        raise AttachError(
            "continuous batching (cache_implementation='paged') takes token ids alone, so no prompt",
            "leave cache_implementation out",
        )


_WRONG_STATIC = {"gpt_neo"}
_PLAIN = "generate without it"
_UNSUPPORTED = {
    "assistant_model": ("assisted generation", _PLAIN),
    "prompt_lookup_num_tokens": ("assisted generation", _PLAIN),
    "assistant_early_exit": ("assisted generation", _PLAIN),
    "custom_generate": ("a generation recipe of another kind", _PLAIN),
    "token_healing": ("token healing", _PLAIN),
    "prefill_chunk_size": ("reading the text in chunks", _PLAIN),
}


def read_generation_batch(anatomy: Anatomy, settings: Settings) -> Batch:
    """Return the text that ``generate`` continues, taking it out of the arguments.

    As in transformers: no text at all stands for a BOS token, and without a mask, tokens with the padding's id
    are padding, unless that is the id of the end of a sequence too.

    Raises:
        AttachError: There is neither text nor a BOS token, or mask and text do not have one shape.
    """
    arguments = settings.arguments
    ids = arguments.pop("input_ids", None)
    inputs = arguments.pop("inputs", None)
    ids = inputs if ids is None else ids
    embeddings = arguments.pop("inputs_embeds", None)
    mask = arguments.pop("attention_mask", None)
    if ids is None and embeddings is None:
        bos = settings["bos_token_id"]
        if bos is None:
            raise AttachError(
                "there is no text, and the model names no BOS token", "pass input_ids"
            )
        ids = torch.full((1, 1), bos, dtype=torch.long, device=anatomy.device)
    if mask is None and ids is not None and embeddings is None:
        mask = _inferred_mask(ids, settings["pad_token_id"], settings["eos_token_id"])
    cached = 0
    given = ids if embeddings is None else embeddings
    if mask is not None and given is not None and arguments.get("past_key_values") is not None:
        cached = max(mask.shape[1] - given.shape[1], 0)
    return read_batch(ids, embeddings, mask, past=cached)


def rows_to_continue(settings: Settings) -> int:
    """Return B, the rows of the text that ``generate`` continues: one if there is none."""
    given = (settings.arguments.get(name) for name in ("inputs", "input_ids", "inputs_embeds"))
    return next((len(tensor) for tensor in given if tensor is not None), 1)


def decoder_generation(
    anatomy: Anatomy,
    rows: MixedRows,
    batch: Batch,
    settings: Settings,
    static: StaticCaches,
) -> tuple[dict[str, Any], tuple[Layout, ...]]:
    """Put the virtual tokens among the arguments of a decoder's ``generate``.

    Rows padded on the right are moved to the right, because generation continues behind the last column.

    Args:
        anatomy: The base model.
        rows: The virtual tokens, a row each.
        batch: The text.
        settings: The call's settings.
        static: Where a cache of a fixed size is to be had.

    Returns:
        What to call the base model's ``generate`` with, and how the prompted input is laid out: a layout for
        each of ``rows.parts``, the last one around the others.

    Raises:
        AttachError: Text, prompt and new tokens do not fit into the model's window, or the cache does not
            belong to the text; or the base model cannot generate from embeddings.
    """
    _check_takes_embeddings(anatomy)
    past = past_length(settings.arguments.get("past_key_values"), rows.length)
    mask = batch.mask
    length = batch.length if mask is None else mask.shape[1]
    check_window(anatomy, rows, length, mask)
    if past is not None:
        _check_past(past, length, mask)
    merged = batch.embedded(anatomy)
    if length > batch.length:
        # Only the new tokens were passed: the columns of those in the cache are never looked at.
        merged = torch.cat(
            [merged.new_zeros(batch.rows, length - batch.length, merged.shape[2]), merged], dim=1
        )
    arguments = settings.arguments
    layouts = []
    for part in rows.parts:
        layout = lay_out(
            part.length,
            merged.shape[1],
            rows=batch.rows,
            device=batch.device,
            text_mask=mask,
            virtual_mask=part.mask,
            alignment=Alignment.RIGHT,
            after_first=part.after_first,
        )
        merged = layout.merge(virtual_embeddings(part, merged), merged)
        mask = layout.mask(batch.rows, batch.device)
        if arguments.get("position_ids") is not None:
            given = arguments["position_ids"]
            arguments["position_ids"] = prompted_positions(given, part, layout, batch.rows)
        layouts.append(layout)
    check_padding(anatomy, layout, batch)
    if batch.ids is not None:
        arguments["input_ids"] = _right_aligned(batch)
    arguments["inputs_embeds"] = merged
    arguments["attention_mask"] = mask
    _set_lengths(anatomy, rows, layout.width, batch, settings)
    if rows.cached is not None and past is None:
        arguments["past_key_values"] = _prefilled(
            anatomy, rows.cached, layout, batch, settings, static
        )
    return arguments, tuple(layouts)


def finish(output: Any, batch: Batch, rows: MixedRows, layouts: Sequence[Layout]) -> Any:
    """Return what ``generate`` gave, without the virtual tokens and with the text as the caller had it.

    Args:
        output: Token ids [B * N, T + new], N sequences a row, or transformers' output object with more.
        batch: The text.
        rows: The virtual tokens.
        layouts: How the prompted input was laid out, as ``decoder_generation`` returned it.
    """
    sequences = output if isinstance(output, Tensor) else output.sequences
    times = len(sequences) // batch.rows
    if batch.ids is not None and any(layout.source is not None for layout in layouts):
        sequences[:, : batch.length] = batch.ids.repeat_interleave(times, dim=0)
    if isinstance(output, Tensor):
        return output
    for part, layout in reversed(list(zip(rows.parts, layouts, strict=True))):
        cached = part.key_values is not None
        for name, dim in (("hidden_states", 1), ("attentions", 2)):
            steps = output.get(name)
            if steps:
                # Only the first pass saw the prompt; each later one saw a single new token.
                output[name] = (
                    _first_step(steps[0], layout, dim, batch.rows, cached=cached),
                    *steps[1:],
                )
    return output


def _first_step(
    layers: tuple[Tensor, ...], layout: Layout, dim: int, rows: int, *, cached: bool
) -> tuple[Tensor, ...]:
    width = layout.width - layout.virtual if cached else layout.width
    if not layers:  # some attention implementations give none
        return layers
    if layers[0].shape[dim] != width:
        return layers
    repeated = layout.repeated(len(layers[0]) // rows)
    return tuple(repeated.text_of(layer, dim=dim, without_virtual=cached) for layer in layers)


def _inferred_mask(ids: Tensor, pad: int | None, eos: int | list[int] | None) -> Tensor | None:
    """Return [B, T] Which ``ids`` are not padding, or None if that cannot be told or none is."""
    ends = [eos] if isinstance(eos, int) else list(eos or ())
    if pad is None or pad in ends or not bool((ids == pad).any()):
        return None
    return (ids != pad).long()


def _right_aligned(batch: Batch) -> Tensor:
    """Return [B, T] The text's ids, padding first."""
    if batch.ids is None or batch.mask is None:
        return batch.ids  # type: ignore[return-value]
    own = batch.mask[:, -batch.length :]
    return batch.ids.gather(1, own.argsort(dim=1, stable=True))


def _check_takes_embeddings(anatomy: Anatomy) -> None:
    """Return if the base model's ``generate`` can begin with embeddings, and they are all that it looks at."""
    name = type(anatomy.model).__name__
    prepare: Any = anatomy.model.prepare_inputs_for_generation
    if "inputs_embeds" not in inspect.signature(prepare).parameters:
        reason = f"{name}.generate takes token ids alone, and virtual tokens have none"
    elif anatomy.per_layer_embeddings:
        reason = (
            f"{name}.generate, given embeddings, leaves out what each layer looks up by token ids"
        )
    else:
        return
    raise AttachError(reason, "call the prompted model, one new token at a time")


def _check_past(past: int, length: int, mask: Tensor | None) -> None:
    """Return if a text of ``length`` tokens goes on from ``past`` tokens in the cache."""
    if length <= past:
        raise AttachError(
            f"past_key_values holds {past} tokens of text, and input_ids is {length} tokens long",
            "pass the whole sequence, old tokens and new ones, or the new ones with a mask for all",
        )
    if mask is not None and bool(((mask.cumsum(dim=1) > 0) & (mask == 0)).any()):
        raise AttachError(
            "a row has padding behind its first token, and goes on from a cache",
            "pad on the left, or generate without past_key_values",
        )


def _set_lengths(
    anatomy: Anatomy, rows: MixedRows, width: int, batch: Batch, settings: Settings
) -> None:
    """Let lengths count the text and the new tokens, as the caller sees them.

    Given embeddings, transformers takes their length S off ``max_length`` and ``min_length``, unless it is that
    of the ids beside them: so it is added.
    """
    counted = batch.length if batch.ids is not None else 0
    added = width if counted != width else 0
    asked = settings.asked("max_new_tokens") or settings.asked("max_length")
    most = settings["max_length"] if settings["max_new_tokens"] is None else None
    new = settings["max_new_tokens"]
    if most is not None:
        new = most - batch.length
        settings["max_length"] = new + counted + added
    if (least := settings["min_length"]) and settings["min_new_tokens"] is None:
        settings["min_length"] = least - batch.length + counted + added
    if not anatomy.learned_positions or anatomy.window is None:
        return
    virtual = rows.lengths
    tokens = text_lengths(batch.length, batch.mask, batch.rows)
    worst = int((virtual + tokens).argmax())
    room = anatomy.window - int(virtual[worst] + tokens[worst])
    if not asked and (_DEFAULT_NEW_TOKENS if new is None else new) > room > 0:
        settings["max_new_tokens"] = room
    elif (new or 1) > room:
        new = new or 1
        raise AttachError(
            f"{new} new tokens were asked for, and {room} fit into the model's window of {anatomy.window} "
            f"behind {int(virtual[worst])} virtual tokens and {int(tokens[worst])} tokens of text",
            f"pass max_new_tokens={room} at most" if room > 0 else "shorten the text",
        )


def _prefilled(
    anatomy: Anatomy,
    rows: VirtualRows,
    layout: Layout,
    batch: Batch,
    settings: Settings,
    static: StaticCaches,
) -> PrefilledDynamicCache | PrefilledStaticCache:
    """Return a cache, of the kind that the settings ask for, that begins with the prompt's keys and values."""
    if settings.arguments.get("past_key_values") is not None:
        raise AttachError(
            "this prompt is keys and values, which stand at the start of the cache, and a cache was passed",
            "leave past_key_values out; choose its kind with cache_implementation",
        )
    kind = settings["cache_implementation"]
    config = anatomy.model.config
    cache: PrefilledDynamicCache | PrefilledStaticCache
    if kind in _GROWING:
        cache = PrefilledDynamicCache(config=config, offloading=kind == "offloaded")
    elif kind == "static":
        width = layout.width + _new_tokens(batch, layout, settings)
        ways = (settings["num_beams"] or 1, settings["num_return_sequences"] or 1)
        cache = static.lend(config, width, batch.rows, *ways)
    else:
        raise AttachError(
            f"this prompt is keys and values, and a {kind} cache cannot begin with them",
            "choose cache_implementation='dynamic', 'offloaded' or 'static'",
        )
    if kind is not None:
        settings["cache_implementation"] = None
    if rows.key_values is not None:
        cache.prefill(rows.key_values, layout)
    return cache


def _new_tokens(batch: Batch, layout: Layout, settings: Settings) -> int:
    """Return how many tokens will be generated at most."""
    new: int | None = settings["max_new_tokens"]
    if new is not None:
        return new
    most: int | None = settings["max_length"]
    if most is None:
        return _DEFAULT_NEW_TOKENS
    counted = batch.length if batch.ids is not None else 0
    return most - counted - layout.width
