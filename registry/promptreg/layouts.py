"""Layouts: which tensors each method has, and their shapes.

P is the number of virtual tokens, H the base model's embedding width, L its layers, K the width of one layer's
keys, T the tasks of a multitask prompt, R its rank.
"""

from collections.abc import Mapping
from dataclasses import replace

from promptreg.names import Reference
from promptreg.prompts import TASK_EMBEDDING, Method, Placement, SoftPrompt, Tensor

__all__ = [
    "DECODER_PREFIX",
    "FEWEST_MEMBERS",
    "MODULES_PREFIX",
    "PROMPT_EMBEDDINGS",
    "TASK_COLS",
    "TASK_EMBEDDING",
    "TASK_ROWS",
    "check_layout",
    "member_name",
    "trained_modules",
    "without_task_embedding",
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
FEWEST_MEMBERS = 2
"""An ensemble of one would be that one."""

_ENSEMBLE = Method.ENSEMBLE
_MULTITASK = Method.MULTITASK_PROMPT_TUNING


def check_layout(prompt: SoftPrompt) -> None:
    """Return if the prompt has the tensors that its method needs, in the shapes that its numbers say.

    Raises:
        ValueError: It does not; the text says what was found and what was wanted.
    """
    for name in ("num_virtual_tokens", "token_dim"):
        if getattr(prompt, name) < 1:
            raise ValueError(f"{name} is {getattr(prompt, name)}, and must be at least 1")
    _check_placement(prompt)
    _check_members(prompt)
    modules = _module_prefixes(prompt)
    own = {name: each for name, each in prompt.tensors.items() if not name.startswith(modules)}
    _check_shapes(prompt.method, own, _shapes(prompt, own))
    if prompt.method is _ENSEMBLE:
        tokens = sum(tensor.shape[0] for tensor in own.values())
        if tokens != prompt.num_virtual_tokens:
            raise ValueError(
                f"num_virtual_tokens is {prompt.num_virtual_tokens}, and its members have {tokens}"
            )


def member_name(index: int, name: str) -> str:
    """Return what the tensor ``name`` of an ensemble's member is called in the ensemble.

    >>> member_name(0, PROMPT_EMBEDDINGS)
    'members.0.prompt_embeddings'
    """
    return f"members.{index}.{name}"


def trained_modules(prompt: SoftPrompt) -> tuple[str, ...]:
    """Return the names of the tensors that belong to trained modules of the base, sorted."""
    prefixes = _module_prefixes(prompt)
    return tuple(sorted(name for name in prompt.tensors if name.startswith(prefixes)))


def without_task_embedding(prompt: SoftPrompt) -> SoftPrompt:
    """Return ``prompt`` as what it is used with alone: a prompt without a task embedding is itself."""
    if TASK_EMBEDDING not in prompt.tensors:
        return prompt
    kept = {name: each for name, each in prompt.tensors.items() if name != TASK_EMBEDDING}
    return replace(prompt, tensors=kept)


def _module_prefixes(prompt: SoftPrompt) -> tuple[str, ...]:
    if prompt.method is not _ENSEMBLE:
        return (MODULES_PREFIX,)
    return tuple(member_name(index, MODULES_PREFIX) for index in range(len(prompt.members)))


def _check_placement(prompt: SoftPrompt) -> None:
    in_layers = prompt.placement is Placement.KEY_VALUES
    # What an ensemble is made of may stand in either place.
    if prompt.method is not _ENSEMBLE and in_layers is not (prompt.method is Method.PREFIX_TUNING):
        raise ValueError(f"a {prompt.method} prompt cannot be placed as {prompt.placement}")


def _check_members(prompt: SoftPrompt) -> None:
    members = prompt.members
    if prompt.method is not _ENSEMBLE:
        if members or prompt.vote is not None:
            raise ValueError(f"it is a {prompt.method} prompt, and only an ensemble has members")
        return
    if len(set(members)) < max(len(members), FEWEST_MEMBERS):
        raise ValueError(
            f"it names {len(members)} members, {len(set(members))} of them different, and at least "
            f"{FEWEST_MEMBERS} were expected, each once"
        )
    if prompt.vote is None:
        raise ValueError("it lacks the vote by which its members come to one answer")
    for member in members:
        if Reference.parse(member).version is None:
            raise ValueError(f"its member {member!r} is not pinned to a version")


def _check_shapes(
    method: Method, own: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    for name in sorted(wanted.keys() | own.keys()):
        if name not in own:
            raise ValueError(f"it lacks the tensor {name!r}, which {method} needs")
        if name not in wanted:
            raise ValueError(f"it has a tensor {name!r}, which {method} has no place for")
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


def _shapes(prompt: SoftPrompt, own: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    tokens, width = prompt.num_virtual_tokens, _row_width(prompt)
    if prompt.method is _ENSEMBLE:
        names = [member_name(index, PROMPT_EMBEDDINGS) for index in range(len(prompt.members))]
        return {name: (_length(own.get(name)), width) for name in names}
    shapes: dict[str, tuple[int, ...]] = {PROMPT_EMBEDDINGS: (tokens, width)}
    if prompt.method is Method.PROMPT_TUNING and TASK_EMBEDDING in own:
        shapes[TASK_EMBEDDING] = shapes[PROMPT_EMBEDDINGS]
    if prompt.method is _MULTITASK:
        tasks, rank = _tasks_and_rank(own)
        shapes[TASK_COLS] = (tasks, tokens, rank)
        shapes[TASK_ROWS] = (tasks, rank, width)
        if any(name.startswith(DECODER_PREFIX) for name in own):
            shapes[DECODER_PREFIX + PROMPT_EMBEDDINGS] = shapes[PROMPT_EMBEDDINGS]
            shapes[DECODER_PREFIX + TASK_COLS] = shapes[TASK_COLS]
    return shapes


def _row_width(prompt: SoftPrompt) -> int:
    """Return how many numbers one virtual token is."""
    if prompt.placement is not Placement.KEY_VALUES:
        return prompt.token_dim
    if prompt.num_layers is None or prompt.num_layers < 1:
        raise ValueError(f"num_layers is {prompt.num_layers}, and prefix tuning needs it")
    return prompt.num_layers * 2 * prompt.token_dim


def _length(rows: Tensor | None) -> int:
    """Return the length of a member, which nothing but its tensor says: at least one token."""
    return max((1, *rows.shape[:1])) if rows is not None else 1


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
