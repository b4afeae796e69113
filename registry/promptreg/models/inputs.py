"""What goes into the base model in a forward pass: the caller's arguments, virtual tokens among them."""

from typing import Any

import torch
from torch import Tensor

from promptreg.errors import AttachError
from promptreg.models.anatomy import Anatomy, Kind
from promptreg.models.batches import Batch, check_window, past_length
from promptreg.models.mixing import MixedRows
from promptreg.models.placing import Alignment, Layout, lay_out, positions
from promptreg.models.prefilling import PrefilledDynamicCache
from promptreg.models.virtual import VirtualRows

__all__ = ["check_padding", "forward_arguments", "prompted_positions", "virtual_embeddings"]

_IGNORED_LABEL = -100


def forward_arguments(
    anatomy: Anatomy, rows: MixedRows, batch: Batch, arguments: dict[str, Any]
) -> tuple[dict[str, Any], tuple[Layout, ...]]:
    """Put the virtual tokens among the arguments of a decoder or an encoder.

    Args:
        anatomy: The base model.
        rows: The virtual tokens, a row each.
        batch: The text.
        arguments: The caller's other arguments.

    Returns:
        What to call the base model with, and how the prompted input is laid out: a layout for each of
        ``rows.parts``, the last one around the others. None if the virtual tokens were in the cache already,
        so that the output is the text's alone.
    """
    past = past_length(arguments.get("past_key_values"), rows.length)
    if past is not None:
        return _continued(anatomy, rows, batch, arguments, past), ()
    check_window(anatomy, rows, batch.length, batch.mask)
    _check_alike(anatomy, rows)
    first, last = rows.parts[:-1], rows.parts[-1]
    layouts = []
    for part in first:
        arguments, layout = _placed(anatomy, part, batch, arguments)
        # The text with its embedded prompts is the text that those of keys and values stand beside.
        batch = Batch(
            ids=None,
            embeddings=arguments.pop("inputs_embeds"),
            mask=arguments.pop("attention_mask", None),
        )
        layouts.append(layout)
    limit = anatomy.window if anatomy.kind is Kind.ENCODER else None
    ready, layout = _placed(anatomy, last, batch, arguments, limit=limit)
    check_padding(anatomy, layout, batch)
    return ready, (*layouts, layout)


def _placed(
    anatomy: Anatomy,
    rows: VirtualRows,
    batch: Batch,
    arguments: dict[str, Any],
    *,
    limit: int | None = None,
) -> tuple[dict[str, Any], Layout]:
    """Put virtual tokens of one form among the arguments."""
    layout = lay_out(
        rows.length,
        batch.length,
        rows=batch.rows,
        device=batch.device,
        text_mask=batch.mask,
        virtual_mask=rows.mask,
        alignment=_alignment(anatomy),
        after_first=rows.after_first,
        limit=limit,
    )
    ready = dict(arguments)
    if rows.key_values is not None:
        ready["past_key_values"] = _prefilled(anatomy, rows, layout, arguments)
    if rows.embeddings is None:
        ready.update(_text_in_order(anatomy, batch, layout))
    else:
        text = batch.embedded(anatomy)
        ready["inputs_embeds"] = layout.merge(virtual_embeddings(rows, text), text)
    if batch.mask is not None or rows.mask is not None:
        ready["attention_mask"] = layout.mask(batch.rows, batch.device)
    ready.update(_positions(anatomy, rows, batch, layout, arguments))
    ready.update(_per_token(anatomy, rows, batch, layout, arguments))
    ready.update(_logits_to_keep(anatomy, rows, layout, arguments))
    return ready, layout


def _check_alike(anatomy: Anatomy, rows: MixedRows) -> None:
    """Return if an encoder, which counts a prompt's keys as positions, gets as many of them in each row.

    Raises:
        AttachError: It does not.
    """
    cached = rows.cached
    if anatomy.kind is not Kind.ENCODER or cached is None or cached.mask is None:
        return
    raise AttachError(
        f"some rows of this batch have a prompt of {cached.length} keys and values, others fewer or none, "
        f"and a {type(anatomy.model).__name__} counts positions from behind them: rows would get other "
        "outputs than alone",
        "give rows whose prefixes differ in length a batch of their own",
    )


def check_padding(anatomy: Anatomy, layout: Layout, batch: Batch) -> None:
    """Return if padding cannot change what the base model makes of a row.

    Raises:
        AttachError: A row begins with padding, and the base model counts it or runs over it.
    """
    if not anatomy.counts_padding or layout.source is None:
        return
    if bool((layout.mask(batch.rows, batch.device)[:, 0] == 0).any()):
        raise AttachError(
            f"a row of this batch begins with padding, which a {type(anatomy.model).__name__} does not leave "
            "out: the row would get other outputs than alone",
            "pass rows one by one, or rows of one length",
        )


def prompted_positions(given: Tensor, rows: VirtualRows, layout: Layout, count: int) -> Tensor:
    """Return [B, S] The positions of the prompted input, made from the caller's for the text.

    Args:
        given: [B, T] or [1, T] The caller's positions.
        rows: The virtual tokens.
        layout: How the two stand beside each other.
        count: B.

    Raises:
        AttachError: They have another shape.
    """
    if given.ndim != 2 or given.shape[1] != layout.text:  # noqa: PLR2004
        raise AttachError(
            f"position_ids is {list(given.shape)}, and the text is {layout.text} tokens long",
            "pass one position for each text token, or leave position_ids out",
        )
    given = given.expand(count, -1)
    ones = torch.ones(count, max(rows.length, layout.text), dtype=torch.long, device=given.device)
    virtual_mask = ones[:, : rows.length] if rows.mask is None else rows.mask
    text_mask = ones[:, : layout.text] if layout.text_mask is None else layout.text_mask
    seen = text_mask.cumsum(dim=1)
    is_first = (seen == 1) & (text_mask == 1)
    first = (given * is_first).sum(dim=1, keepdim=True)  # [B, 1]
    behind = _after_first(rows, given)  # [B, 1]
    virtual = first + behind.long() + virtual_mask.cumsum(dim=1) - 1  # [B, P]
    stays = is_first & behind
    text = given + virtual_mask.sum(dim=1, keepdim=True) * ~stays  # [B, T]
    # An unused column in front of a row has no position of its own.
    return layout.merge(virtual.clamp(min=0), text)


def _alignment(anatomy: Anatomy) -> Alignment:
    # XLNet classifies by the last column too, though each token sees all.
    last = anatomy.pooled and getattr(anatomy.model.config, "summary_type", None) == "last"
    if anatomy.kind is Kind.ENCODER and not last:
        return Alignment.LEFT
    # A decoder that classifies reads its last column, which must then be each row's last token.
    return Alignment.RIGHT if anatomy.pooled else Alignment.AS_GIVEN


def _text_in_order(anatomy: Anatomy, batch: Batch, layout: Layout) -> dict[str, Tensor]:
    """Return the text beside a prompt of keys and values.

    As ids if possible, because some decoders look more up by them than the embeddings (Gemma 3n). But a
    classifier would look for padding among them, and an encoder would count positions by them.
    """
    if batch.ids is not None and anatomy.kind is Kind.DECODER and not anatomy.pooled:
        return {"input_ids": layout.text_order(batch.ids)}
    return {"inputs_embeds": layout.text_order(batch.embedded(anatomy))}


def _continued(
    anatomy: Anatomy, rows: MixedRows, batch: Batch, arguments: dict[str, Any], past: int
) -> dict[str, Any]:
    """Return the arguments of a pass whose virtual tokens are in the cache already."""
    ready = dict(arguments)
    ready["input_ids"], ready["inputs_embeds"] = batch.ids, batch.embeddings
    given = arguments.get("position_ids")
    if given is not None:
        ready["position_ids"] = given + rows.lengths[:, None].to(given.device)
    whole = past + batch.length
    check_window(anatomy, rows, whole, batch.mask)
    mask = batch.mask
    for part in rows.parts:
        if mask is None and part.mask is None:
            continue
        layout = lay_out(
            part.length,
            whole,
            rows=batch.rows,
            device=batch.device,
            text_mask=mask,
            virtual_mask=part.mask,
            alignment=_alignment(anatomy),
            after_first=part.after_first,
        )
        mask, whole = layout.mask(batch.rows, batch.device), layout.width
    if mask is None:
        return ready
    check_padding(anatomy, layout, batch)
    ready["attention_mask"] = mask
    if given is None and "position_ids" in anatomy.accepts:
        ready["position_ids"] = positions(mask)[:, -batch.length :]
    return ready


def _prefilled(
    anatomy: Anatomy, rows: VirtualRows, layout: Layout, arguments: dict[str, Any]
) -> PrefilledDynamicCache:
    """Return a cache that begins with the prompt's keys and values."""
    if arguments.get("past_key_values") is not None:
        raise AttachError(
            "this prompt is keys and values, which stand at the start of the cache, and a cache was passed",
            "leave past_key_values out of the first call; it is in that call's output",
        )
    # An encoder's config may not tell the layer types of a decoder's cache; its cache has full layers only.
    config = anatomy.model.config if anatomy.kind is Kind.DECODER else None
    cache = PrefilledDynamicCache(config=config)
    if rows.key_values is not None:
        cache.prefill(rows.key_values, layout)
    return cache


def _positions(
    anatomy: Anatomy, rows: VirtualRows, batch: Batch, layout: Layout, arguments: dict[str, Any]
) -> dict[str, Tensor]:
    """Return the positions of the prompted input, if the model would count them wrongly by itself."""
    if "position_ids" not in anatomy.accepts:
        return {}
    given = arguments.get("position_ids")
    if given is not None:
        counted = prompted_positions(given, rows, layout, batch.rows)
    elif anatomy.kind is Kind.DECODER and _miscounts(anatomy, layout):
        counted = positions(layout.mask(batch.rows, batch.device))
    else:
        return {}
    first = rows.length if rows.key_values is not None else 0
    return {"position_ids": counted[:, first:]}


def _miscounts(anatomy: Anatomy, layout: Layout) -> bool:
    """Return whether a decoder's own count, by columns, would not be each row's own."""
    beyond = anatomy.window is not None and layout.width > anatomy.window
    return layout.source is not None or beyond


def _per_token(
    anatomy: Anatomy, rows: VirtualRows, batch: Batch, layout: Layout, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Return the caller's arguments that have an entry a token, with entries for the virtual tokens."""
    ready: dict[str, Any] = {}
    arguments = dict(arguments)
    fills = {"token_type_ids": 0}
    labels = arguments.get("labels")
    if (
        labels is not None
        and not anatomy.pooled
        and tuple(labels.shape) == (batch.rows, batch.length)
    ):
        fills["labels"] = _IGNORED_LABEL
        arguments["labels"] = _predictable(labels, anatomy, rows, batch)
    if anatomy.kind is Kind.DECODER and arguments.get("token_type_ids") is not None:
        raise AttachError(
            "token_type_ids were passed, and a decoder has none for virtual tokens",
            "leave token_type_ids out",
        )
    for name, fill in fills.items():
        given = arguments.get(name)
        if given is None:
            continue
        if rows.key_values is not None:
            ready[name] = layout.text_order(given)
        else:
            ready[name] = layout.merge(given.new_full((batch.rows, rows.length), fill), given)
    for name in ("start_positions", "end_positions"):
        given = arguments.get(name)
        if given is not None:
            shift = rows.length if rows.key_values is not None else 0
            ready[name] = layout.column_of(given) - shift
    return ready


def _predictable(labels: Tensor, anatomy: Anatomy, rows: VirtualRows, batch: Batch) -> Tensor:
    """Return [B, T] The labels that a token in front of them predicts.

    A language model predicts each label from the token before it. If that is no virtual token, a row's first
    label has none; beside padding, or columns of others' prompts, those would predict it.
    """
    if not anatomy.model.can_generate() or (batch.mask is None and rows.mask is None):
        return labels
    alone = torch.ones(batch.rows, 1, dtype=torch.bool, device=labels.device)  # [B, 1]
    if rows.key_values is None and rows.length:
        alone = _after_first(rows, labels)
        if rows.mask is not None:
            alone = alone | (rows.mask.sum(dim=1, keepdim=True) == 0)
    mask = torch.ones_like(labels) if batch.mask is None else batch.mask
    first = (mask.cumsum(dim=1) == 1) & (mask == 1)
    return labels.masked_fill(first & alone, _IGNORED_LABEL)


def _after_first(rows: VirtualRows, like: Tensor) -> Tensor:
    """Return [B, 1] Whether each row has its prompt behind its first token, for a tensor [B, ...]."""
    if isinstance(rows.after_first, Tensor):
        return rows.after_first[:, None]
    return torch.full((len(like), 1), rows.after_first, device=like.device)


def _logits_to_keep(
    anatomy: Anatomy, rows: VirtualRows, layout: Layout, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Return how many of the last logits the model should compute: none for the virtual tokens.

    With labels it must compute them all: the last virtual token predicts the first token of the text.
    """
    keep = arguments.get("logits_to_keep")
    if "logits_to_keep" not in anatomy.accepts or rows.embeddings is None:
        return {}
    if isinstance(keep, Tensor):
        if rows.any_after_first and not bool(
            (keep < 0).all()
        ):  # from the end, they are all rows' own
            raise AttachError(
                "logits_to_keep is a tensor, and with this prompt's place each row has columns of its own",
                "pass a number, or leave logits_to_keep out",
            )
        return {"logits_to_keep": keep + rows.length * (keep >= 0)}
    if keep and keep < layout.text:
        return {"logits_to_keep": keep}
    # Not the last T columns, where the prompt stands behind the first token.
    all_needed = arguments.get("labels") is not None or rows.any_after_first
    return {"logits_to_keep": 0 if all_needed else layout.text}


def virtual_embeddings(rows: VirtualRows, text: Tensor) -> Tensor:
    """Return [B, P, H] The embeddings of the virtual tokens, as ``text`` [B, T, H] is.

    A prompt of keys and values has none: zeros stand in for what the model will not look at.
    """
    if rows.embeddings is None:
        return text.new_zeros(len(text), rows.length, text.shape[-1])
    return rows.embeddings.to(text)
