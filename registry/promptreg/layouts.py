"""Layouts: which tensors each method has, and their shapes.

P is the number of virtual tokens, H the base model's embedding width, L its layers, K the width of one layer's
keys, T the tasks of a multitask prompt, R its rank.
"""

from collections.abc import Mapping

from promptreg.prompts import Method, Placement, SoftPrompt, Tensor

__all__ = [
    "DECODER_PREFIX",
    "MODULES_PREFIX",
    "PROMPT_EMBEDDINGS",
    "TASK_COLS",
    "TASK_ROWS",
    "check_layout",
    "trained_modules",
]

PROMPT_EMBEDDINGS = "prompt_embeddings"
"""[P, H] The virtual tokens; [P, L * 2 * K] for prefix tuning."""
TASK_COLS = "prefix_task_cols"
"""[T, P, R] One factor of each task's part in a multitask prompt."""
TASK_ROWS = "prefix_task_rows"
"""[T, R, H] The other factor: task t's prompt is ``prompt_embeddings * (cols[t] @ rows[t])``."""
DECODER_PREFIX = "decoder_"
"""In front of the tensors that a multitask prompt also puts before the decoder's input."""
MODULES_PREFIX = "modules_to_save."
"""In front of the tensors of trained modules of the base, such as a classifier."""

_MULTITASK = Method.MULTITASK_PROMPT_TUNING


def check_layout(prompt: SoftPrompt) -> None:
    """Return if the prompt has the tensors that its method needs, in the shapes that its numbers say.

    Raises:
        ValueError: It does not; the text says what was found and what was wanted.
    """
    for name in ("num_virtual_tokens", "token_dim"):
        if getattr(prompt, name) < 1:
            raise ValueError(f"{name} is {getattr(prompt, name)}, and must be at least 1")
    in_layers = prompt.method is Method.PREFIX_TUNING
    if in_layers is not (prompt.placement is Placement.KEY_VALUES):
        raise ValueError(f"a {prompt.method} prompt cannot be placed as {prompt.placement}")
    own = {
        name: tensor
        for name, tensor in prompt.tensors.items()
        if not name.startswith(MODULES_PREFIX)
    }
    wanted = _shapes(prompt, own)
    for name in sorted(wanted.keys() | own.keys()):
        if name not in own:
            raise ValueError(f"it lacks the tensor {name!r}, which {prompt.method} needs")
        if name not in wanted:
            raise ValueError(f"it has a tensor {name!r}, which {prompt.method} has no place for")
        if own[name].shape != wanted[name]:
            raise ValueError(
                f"{name!r} is {list(own[name].shape)}, and {list(wanted[name])} was expected"
            )
        twin = own.get(DECODER_PREFIX + name)
        if twin is not None and twin.dtype != own[name].dtype:
            raise ValueError(
                f"{name!r} is {own[name].dtype} and its decoder's half {twin.dtype}: "
                "the two must be alike"
            )


def trained_modules(prompt: SoftPrompt) -> tuple[str, ...]:
    """Return the names of the tensors that belong to trained modules of the base, sorted."""
    return tuple(sorted(name for name in prompt.tensors if name.startswith(MODULES_PREFIX)))


def _shapes(prompt: SoftPrompt, own: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    tokens, width = prompt.num_virtual_tokens, prompt.token_dim
    if prompt.method is Method.PREFIX_TUNING:
        if prompt.num_layers is None or prompt.num_layers < 1:
            raise ValueError(f"num_layers is {prompt.num_layers}, and prefix tuning needs it")
        return {PROMPT_EMBEDDINGS: (tokens, prompt.num_layers * 2 * width)}
    shapes: dict[str, tuple[int, ...]] = {PROMPT_EMBEDDINGS: (tokens, width)}
    if prompt.method is _MULTITASK:
        tasks, rank = _tasks_and_rank(own)
        shapes[TASK_COLS] = (tasks, tokens, rank)
        shapes[TASK_ROWS] = (tasks, rank, width)
        if any(name.startswith(DECODER_PREFIX) for name in own):
            shapes[DECODER_PREFIX + PROMPT_EMBEDDINGS] = shapes[PROMPT_EMBEDDINGS]
            shapes[DECODER_PREFIX + TASK_COLS] = shapes[TASK_COLS]
    return shapes


def _tasks_and_rank(own: Mapping[str, Tensor]) -> tuple[int, int]:
    """Take T and R from the tensor that has both; nothing else in a prompt says them."""
    match own.get(TASK_ROWS):
        case None:
            raise ValueError(f"it lacks the tensor {TASK_ROWS!r}, which {_MULTITASK} needs")
        case Tensor(shape=(tasks, rank, _)):
            return tasks, rank
        case rows:
            found = list(rows.shape)
            raise ValueError(f"{TASK_ROWS!r} is {found}, and [tasks, rank, width] was expected")
