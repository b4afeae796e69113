"""What goes into an encoder-decoder: virtual tokens before the encoder's input, or as keys of the decoder."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from promptreg.errors import AttachError
from promptreg.models.anatomy import Anatomy
from promptreg.models.batches import Batch, check_window, past_length, read_batch
from promptreg.models.inputs import virtual_embeddings
from promptreg.models.mixing import MixedRows
from promptreg.models.placing import Alignment, Layout, lay_out
from promptreg.models.prefilling import PrefilledDynamicCache
from promptreg.models.virtual import VirtualRows

if TYPE_CHECKING:
    from promptreg.models.generating import Settings

__all__ = ["seq2seq_arguments", "seq2seq_generation"]


def seq2seq_arguments(
    anatomy: Anatomy, rows: MixedRows, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Put the virtual tokens among the arguments of an encoder-decoder.

    Args:
        anatomy: The base model.
        rows: The virtual tokens, a row each.
        arguments: The caller's arguments. ``encoder_outputs`` are those that this prompted model gave before;
            ``attention_mask`` and ``decoder_attention_mask`` are for the text.

    Returns:
        What to call the base model with.

    Raises:
        AttachError: The text is too long for the model, the encoder's outputs came without the prompt, or the
            cache did.
    """
    ready = dict(arguments)
    if rows.cached is not None:
        ready.update(_decoder_arguments(anatomy, rows.cached, arguments))
    if rows.embedded is None:
        _check_padding(anatomy, arguments)
    else:
        ready.update(_encoder_arguments(anatomy, rows, rows.embedded, arguments))
    return ready


def seq2seq_generation(anatomy: Anatomy, rows: MixedRows, settings: "Settings") -> dict[str, Any]:
    """Put the virtual tokens among the arguments of an encoder-decoder's ``generate``.

    The encoder runs here, so that ``generate`` still gets the text as token ids, which its processors read.

    Args:
        anatomy: The base model.
        rows: The virtual tokens, a row each.
        settings: The call's settings.

    Returns:
        What to call the base model's ``generate`` with.

    Raises:
        AttachError: As in ``seq2seq_arguments``.
    """
    arguments = settings.arguments
    inputs = arguments.pop("inputs", None)
    ids = arguments.pop("input_ids", None) if inputs is None else inputs
    if rows.cached is not None:
        if settings["cache_implementation"] not in (None, "dynamic"):
            raise AttachError(
                f"this prompt is keys and values of the decoder, and a {settings['cache_implementation']} "
                "cache cannot begin with them",
                "leave cache_implementation out",
            )
        _begin_with_start(settings)
        # Without a cache the decoder would read all anew at each step, the prompt only at the first.
        settings["use_cache"] = True
        arguments.update(_decoder_arguments(anatomy, rows.cached, arguments))
    if rows.embedded is None:
        _check_padding(anatomy, arguments)
        return {**arguments, "input_ids": ids}
    ready = _encoder_arguments(anatomy, rows, rows.embedded, {**arguments, "input_ids": ids})
    if arguments.get("encoder_outputs") is None:
        with torch.no_grad():
            arguments["encoder_outputs"] = anatomy.model.get_encoder()(
                input_ids=None,  # FSMT's encoder demands it
                inputs_embeds=ready["inputs_embeds"],
                attention_mask=ready["attention_mask"],
                output_attentions=settings["output_attentions"],
                output_hidden_states=settings["output_hidden_states"],
                return_dict=True,
            )
    arguments.pop("inputs_embeds", None)
    return {**arguments, "input_ids": ids, "attention_mask": ready.get("attention_mask")}


def _check_padding(anatomy: Anatomy, arguments: dict[str, Any]) -> None:
    """Return if padding cannot change what the encoder makes of a row, which gets the text as it is."""
    mask = arguments.get("attention_mask")
    if not anatomy.counts_padding or mask is None or arguments.get("encoder_outputs") is not None:
        return
    if bool((mask[:, 0] == 0).any()):
        raise AttachError(
            f"a row of this batch begins with padding, which a {type(anatomy.model).__name__} counts as "
            "positions: the row would get other outputs than alone",
            "pad on the right",
        )


def _encoder_arguments(
    anatomy: Anatomy, mixed: MixedRows, rows: VirtualRows, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Return the encoder's input with the virtual tokens in it, and its mask."""
    mask = arguments.get("attention_mask")
    outputs = arguments.get("encoder_outputs")
    if outputs is not None:
        return _encoded(rows, outputs[0], mask)
    batch = read_batch(arguments.get("input_ids"), arguments.get("inputs_embeds"), mask)
    check_window(anatomy, mixed, batch.length, batch.mask)
    layout = _layout(rows, batch.rows, batch.length, batch.device, batch.mask, anatomy.window)
    text = _as_alone(anatomy, rows, batch)
    return {
        "input_ids": None,
        "inputs_embeds": layout.merge(virtual_embeddings(rows, text), text),
        "attention_mask": _mask(layout, batch.rows, batch.device),
    }


def _as_alone(anatomy: Anatomy, rows: VirtualRows, batch: Batch) -> Tensor:
    """Return [B, T, H] The embedded text, scaled in the rows without virtual tokens among it.

    Some encoders (Marian's, Pegasus') scale what they embed themselves and not what comes embedded. A prompt
    was trained beside text as it comes; a row without one must get what its ids would have got.
    """
    text = batch.embedded(anatomy)
    encoder: Any = anatomy.model.get_encoder()
    scale = getattr(encoder, "embed_scale", None)
    if scale is None or hasattr(anatomy.embedding, "embed_scale") or rows.mask is None:
        return text
    bare = rows.mask.sum(dim=1) == 0  # [B]
    return torch.where(bare[:, None, None], text * scale, text)


def _encoded(rows: VirtualRows, states: Tensor, mask: Tensor | None) -> dict[str, Any]:
    """Return the mask for what the encoder gave already, ``states`` [B, S, H]."""
    if mask is None:
        return {}
    count, width = states.shape[:2]
    if width < rows.length + int((mask != 0).sum(dim=1).max()):
        raise AttachError(
            f"encoder_outputs is {width} tokens long, and the text is {mask.shape[1]} and its prompt "
            f"{rows.length}: the encoder did not see the prompt",
            "pass what this prompted model's encoder gave, or leave encoder_outputs out",
        )
    layout = _layout(rows, count, mask.shape[1], mask.device, (mask != 0).long(), width)
    return {"attention_mask": _mask(layout, count, mask.device)}


def _layout(
    rows: VirtualRows,
    count: int,
    text: int,
    device: torch.device,
    mask: Tensor | None,
    limit: int | None,
) -> Layout:
    return lay_out(
        rows.length,
        text,
        rows=count,
        device=device,
        text_mask=mask,
        virtual_mask=rows.mask,
        alignment=Alignment.LEFT,
        after_first=rows.after_first,
        limit=limit,
    )


def _mask(layout: Layout, rows: int, device: torch.device) -> Tensor | None:
    if layout.text_mask is None and layout.virtual_mask is None:
        return None
    return layout.mask(rows, device)


def _decoder_arguments(
    anatomy: Anatomy, rows: VirtualRows, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Return the decoder's cache, which begins with the prompt, and its mask."""
    if rows.mask is not None and anatomy.counts_columns:
        raise AttachError(
            f"the prompts of this batch have several lengths, and the decoder of a "
            f"{type(anatomy.model).__name__} counts columns as positions: a row would get other outputs than "
            "alone",
            "give each batch prompts of one length",
        )
    given = arguments.get("past_key_values")
    past = past_length(given, rows.length)
    mask = arguments.get("decoder_attention_mask")
    layout = Layout(virtual=rows.length, text=0)
    ready: dict[str, Any] = {}
    if mask is None and rows.mask is not None:
        mask = rows.mask.new_ones(len(rows.mask), (past or 0) + _decoder_length(arguments))
    if mask is not None:
        layout = lay_out(
            rows.length,
            mask.shape[1],
            rows=len(mask),
            device=mask.device,
            text_mask=(mask != 0).long(),
            virtual_mask=rows.mask,
        )
        ready["decoder_attention_mask"] = layout.mask(len(mask), mask.device)
    if past is not None:
        return ready
    if given is not None:
        raise AttachError(
            "this prompt is keys and values, which stand at the start of the cache, and a cache was passed",
            "leave past_key_values out of the first call; it is in that call's output",
        )
    cache = PrefilledDynamicCache()
    if rows.key_values is not None:
        cache.prefill(rows.key_values, layout)
    ready["past_key_values"] = EncoderDecoderCache(cache, DynamicCache())
    return ready


def _begin_with_start(settings: "Settings") -> None:
    """Let the decoder's own text begin with its start token, as ``generate`` would see to.

    It would do so after the mask beside the prompt was made.
    """
    given = settings.arguments.get("decoder_input_ids")
    start = settings["decoder_start_token_id"]
    if start is None:
        start = settings["bos_token_id"]
    if given is None or start is None or bool((given[:, 0] == start).all()):
        return
    settings.arguments["decoder_input_ids"] = torch.cat(
        [given.new_full((len(given), 1), start), given], dim=1
    )
    mask = settings.arguments.get("decoder_attention_mask")
    if mask is not None:
        ones = mask.new_ones(len(mask), 1)
        settings.arguments["decoder_attention_mask"] = torch.cat([ones, mask], dim=1)


def _decoder_length(arguments: dict[str, Any]) -> int:
    """Return how many tokens the decoder reads in this pass."""
    for name in ("decoder_input_ids", "decoder_inputs_embeds", "labels"):
        if arguments.get(name) is not None:
            return int(arguments[name].shape[1])
    return 1  # the start token that generation begins with
