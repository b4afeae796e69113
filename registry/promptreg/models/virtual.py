"""A soft prompt's tensors as torch tensors, where and as the base model needs them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from promptreg.errors import AttachError, IncompatibleModelError
from promptreg.layouts import (
    MODULES_PREFIX,
    PROMPT_EMBEDDINGS,
    TASK_COLS,
    TASK_ROWS,
    check_layout,
    trained_modules,
)
from promptreg.models.anatomy import Anatomy, Kind
from promptreg.models.views import shape_of
from promptreg.prompts import Method, Placement, SoftPrompt, TaskType
from promptreg.prompts import Tensor as StoredTensor

__all__ = [
    "KeyTable",
    "KeyValues",
    "VirtualRows",
    "VirtualTokens",
    "check_fit",
    "check_takes_embeddings",
    "load_virtual_tokens",
    "own_parameters",
    "split_layers",
]

KeyValues = tuple[tuple[Tensor, Tensor], ...]
"""For each layer, its keys and its values, each [heads, P, width]; or [B, heads, P, width]."""

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeyTable:
    """The keys and values that a decoder makes of a prompt, or that a prompt is: constant, whatever the text.

    D is what one token has in all layers: for each of the L layers heads times the width of its keys, and then
    of its values.

    Attributes:
        table: [P, D] A token a row, so that prompts of any lengths are put into one batch by rows.
        shapes: For each layer its key/value heads, and the widths of a key and of a value.
    """

    table: Tensor
    shapes: tuple[tuple[int, int, int], ...]

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return self.table.nbytes

    def layers(self) -> KeyValues:
        """Return each layer's keys and values, as views."""
        return split_layers(self.table, self.shapes)


def split_layers(table: Tensor, shapes: tuple[tuple[int, int, int], ...]) -> KeyValues:
    """Return each layer's keys and values [..., heads, P, width], as views of ``table`` [..., P, D]."""
    widths = [heads * width for heads, *both in shapes for width in both]
    parts = iter(torch.split(table, widths, dim=-1))
    return tuple(
        (
            _by_head(next(parts), heads, key),
            _by_head(next(parts), heads, value),
        )
        for heads, key, value in shapes
    )


def _by_head(part: Tensor, heads: int, width: int) -> Tensor:
    """Return [..., heads, P, width] of ``part`` [..., P, heads * width]."""
    return part.reshape(*part.shape[:-1], heads, width).transpose(-3, -2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VirtualRows:
    """The virtual tokens of a batch: each row has its own.

    B is the number of rows, P the length of the longest prompt among them.

    Attributes:
        length: P.
        mask: [B, P] Which virtual tokens are real, as 0 and 1, a shorter prompt's at the end of its row; None
            if all are.
        embeddings: [B, P, H] None if the prompts are keys and values.
        key_values: For each layer, keys and values [heads, P, width] (the same for all rows) or
            [B, heads, P, width]; None if the prompts are embeddings.
        after_first: [B] Which rows have them behind their first token, not in front of it; or all or none.
    """

    length: int
    mask: Tensor | None = None
    embeddings: Tensor | None = None
    key_values: KeyValues | None = None
    after_first: Tensor | bool = False

    @property
    def any_after_first(self) -> bool:
        """Whether some row has them behind its first token."""
        return self.after_first is not False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VirtualTokens:
    """A soft prompt, ready for one base model: in the dtype and on the device of its embedding.

    Attributes:
        placement: Where they stand.
        length: P.
        embeddings: [P, H] Their embeddings; None if the prompt is keys and values.
        key_table: Their keys and values in every layer; None if the prompt is embeddings.
        modules: The prompt's own trained parameters (a classifier), by the base model's names for them.
        conversions: What had to be converted on the way, a phrase each.
    """

    placement: Placement
    length: int
    embeddings: Tensor | None = None
    key_table: KeyTable | None = None
    modules: Mapping[str, Tensor] = field(default_factory=dict)
    conversions: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """How many bytes they take, without keys and values that were computed from them."""
        tables = () if self.key_table is None else (self.key_table.table,)
        own = () if self.embeddings is None else (self.embeddings,)
        return sum(tensor.nbytes for tensor in (*own, *tables, *self.modules.values()))


def check_fit(prompt: SoftPrompt, anatomy: Anatomy) -> None:
    """Return if ``prompt`` has the shape and the kind that the base model needs, whatever its weights.

    Raises:
        IncompatibleModelError: It has not. No policy overrides this.
        AttachError: The base model has no place for prompts of this kind.
    """
    if prompt.task_type in _KINDS and anatomy.kind is not _KINDS[prompt.task_type]:
        _refuse(
            f"a {_KINDS[prompt.task_type]} ({prompt.task_type})",
            f"a {type(anatomy.model).__name__}, a kind of {anatomy.kind}",
        )
    if prompt.method is not Method.PREFIX_TUNING:
        if prompt.token_dim != anatomy.token_dim:
            _refuse(
                f"a base model with token_dim {prompt.token_dim}",
                f"a {type(anatomy.model).__name__} with token_dim {anatomy.token_dim}",
            )
        check_takes_embeddings(anatomy)
        return
    widths = [heads * width for heads, width in anatomy.key_values]
    if prompt.num_layers != len(widths) or set(widths) != {prompt.token_dim}:
        found = " or ".join(str(width) for width in sorted(set(widths)))
        _refuse(
            f"a base model with {prompt.num_layers} layers and keys {prompt.token_dim} wide",
            f"a {type(anatomy.model).__name__} with {len(widths)} layers and keys {found} wide",
        )


def check_takes_embeddings(anatomy: Anatomy) -> None:
    """Return if virtual tokens that are embeddings have a place in the base model.

    Raises:
        AttachError: They have not.
    """
    if anatomy.per_layer_embeddings:
        raise AttachError(
            f"each layer of a {type(anatomy.model).__name__} looks tokens up by their ids once more, and "
            "virtual tokens have no ids",
            "use a prompt of keys and values (prefix tuning) on this model",
        )


def load_virtual_tokens(
    prompt: SoftPrompt, anatomy: Anatomy, *, task_id: int | None = None
) -> VirtualTokens:
    """Turn the prompt's bytes into tensors for the base model.

    Args:
        prompt: The soft prompt.
        anatomy: The base model.
        task_id: Which task of a multitask prompt; not needed if it has one alone.

    Raises:
        IncompatibleModelError: The prompt's shape or kind is not the base model's.
        AttachError: The prompt's tensors contradict what it says of itself, ``task_id`` names no task, or the
            base model lacks a module that the prompt brings.
    """
    check_fit(prompt, anatomy)
    embeddings = _embeddings(prompt, task_id)
    conversions = [_conversion(embeddings, anatomy.dtype), _move(anatomy.device)]
    embeddings = embeddings.to(device=anatomy.device, dtype=anatomy.dtype)
    is_prefix = prompt.method is Method.PREFIX_TUNING
    return VirtualTokens(
        placement=Placement.KEY_VALUES if is_prefix else prompt.placement,
        length=prompt.num_virtual_tokens,
        embeddings=None if is_prefix else embeddings,
        key_table=_key_table(embeddings, anatomy) if is_prefix else None,
        modules=_modules(prompt, anatomy),
        conversions=tuple(phrase for phrase in conversions if phrase),
    )


def own_parameters(prompt: SoftPrompt, anatomy: Anatomy) -> dict[str, str]:
    """Return which of its tensors the prompt brings for which parameter of the base model (a classifier's).

    Returns:
        The tensors' names by those of the base model's parameters.

    Raises:
        AttachError: The base model has no such parameter, or one of another shape.
    """
    trained = {
        name.removeprefix(MODULES_PREFIX): prompt.tensors[name].shape
        for name in trained_modules(prompt)
    }
    return {_find(name, shape, anatomy): MODULES_PREFIX + name for name, shape in trained.items()}


def _find(name: str, shape: tuple[int, ...], anatomy: Anatomy) -> str:
    """Return which of the base model's parameters the prompt's tensor ``name`` is for."""
    # PEFT counts from its own wrapper, which calls what it wraps base_model.
    paths = dict.fromkeys((name, name.removeprefix("base_model.")))
    for path, own in ((path, shape_of(anatomy.model, path)) for path in paths):
        if own is not None and own != shape:
            raise AttachError(
                f"the prompt's {name} is {list(shape)}, and the base model's is {list(own)}",
                "load the base model with the head that the prompt was trained with "
                f"(num_labels={shape[0]})",
            )
        if own is not None:
            return path
    raise AttachError(
        f"the prompt brings its own {name}, and the base model has no such parameter",
        "load the base model with the head that the prompt was trained with, such as "
        "AutoModelForSequenceClassification",
    )


def _modules(prompt: SoftPrompt, anatomy: Anatomy) -> dict[str, Tensor]:
    """Return the tensors that the prompt brings for the base model's parameters."""
    return {
        path: _to_torch(prompt.tensors[name]).to(device=anatomy.device, dtype=anatomy.dtype)
        for path, name in own_parameters(prompt, anatomy).items()
    }


_KINDS = {TaskType.CAUSAL_LM: Kind.DECODER, TaskType.SEQ_2_SEQ_LM: Kind.ENCODER_DECODER}


def _refuse(expected: str, actual: str) -> None:
    raise IncompatibleModelError(
        expected,
        actual,
        "incompatible",
        remedy="no policy overrides that: load the base model it names",
    )


def _embeddings(prompt: SoftPrompt, task_id: int | None) -> Tensor:
    """Return [P, H] (or [P, L * 2 * K]) What the prompt's tensors come to."""
    try:
        check_layout(prompt)
    except ValueError as error:
        raise AttachError(
            f"the prompt's tensors contradict what it says of itself: {error}",
            "read it with promptreg's readers, which check what they read",
        ) from error
    shared = _to_torch(prompt.tensors[PROMPT_EMBEDDINGS])
    if prompt.method is not Method.MULTITASK_PROMPT_TUNING:
        if task_id is not None:
            raise AttachError(
                f"task_id={task_id} was given, and a {prompt.method} prompt has no tasks to choose from",
                "leave task_id out",
            )
        return shared
    columns, rows = _to_torch(prompt.tensors[TASK_COLS]), _to_torch(prompt.tensors[TASK_ROWS])
    task = _choose_task(task_id, len(columns))
    return shared * (columns[task] @ rows[task])  # [P, R] @ [R, H]


def _choose_task(task_id: int | None, tasks: int) -> int:
    if task_id is None and tasks == 1:
        return 0
    if task_id is None or not 0 <= task_id < tasks:
        raise AttachError(
            f"this multitask prompt holds {tasks} tasks, and task_id is {task_id}",
            f"attach with task_id=0 to {tasks - 1}",
        )
    return task_id


def _to_torch(stored: StoredTensor) -> Tensor:
    # A copy, because bytes are immutable and torch will not share them quietly.
    flat = torch.frombuffer(bytearray(stored.data), dtype=_DTYPES[stored.dtype])
    return flat.reshape(stored.shape)


def _key_table(flat: Tensor, anatomy: Anatomy) -> KeyTable:
    """Return a prefix-tuning prompt [P, L * 2 * K] as keys and values: it is laid out like a table of them."""
    shapes = tuple((heads, width, width) for heads, width in anatomy.key_values)
    if anatomy.kind is Kind.ENCODER_DECODER:
        # PEFT gives layer i of a decoder the keys and values stored for layer 2i, counting round: it doubles
        # them for a cross-attention that it then empties. Prompts are trained so, and must be used so.
        layers = len(shapes)
        stored = flat.reshape(len(flat), layers, -1)
        flat = stored[:, [2 * layer % layers for layer in range(layers)]].flatten(1)
    return KeyTable(table=flat, shapes=shapes)


def _conversion(tensor: Tensor, dtype: torch.dtype) -> str | None:
    if tensor.dtype == dtype:
        return None
    names = [str(kind).removeprefix("torch.") for kind in (tensor.dtype, dtype)]
    lossy = not torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)
    return f"{names[0]} to {names[1]}, {'rounded' if lossy else 'nothing lost'}"


def _move(device: torch.device) -> str | None:
    return None if device.type == "cpu" else f"moved to {device}"
