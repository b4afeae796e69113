"""Which registered prompts are closest to one, for starting from the best of them (SPoT, Vu et al. 2022).

P is the number of virtual tokens, H the base model's embedding width.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from promptreg.errors import InvalidValueError
from promptreg.prompts import Method
from promptreg.pushing import check_words
from promptreg.tuning.cosines import Cosines, compare
from promptreg.tuning.neighbours import (
    Compared,
    Neighbour,
    Similar,
    Weakness,
    kinship,
    least_cosine,
)
from promptreg.tuning.similarity_index import bring_up_to_date, summarise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from promptreg.bases import BaseModel
    from promptreg.prompts import PromptVersion
    from promptreg.registry import Registry

__all__ = ["similar", "similar_to"]

_MOST = 1000
_AXES = 2
_FEW = 8  # tasks
_OF_NORMAL = 1.4826  # a standard deviation, in median deviations


def similar(
    registry: "Registry",
    reference: str,
    *,
    base: str | None = None,
    limit: int = 10,
    exclude_tasks: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Similar:
    """Return the registered prompts that are closest to one of them, on the same base model.

    Compared are versions of prompt tuning that were not yanked, of all tasks. They are ranked by the cosine of
    their mean tokens. SPoT's other measure, the mean of the cosines of all pairs of tokens, stands beside it
    and does not rank: it falls with the number of tokens that point apart, so it favours short prompts.

    Two prompts are compared by their task embeddings, as they were early in their training, if both have one;
    else by what they became. All prompts of a base model lie in one corner of its embedding space, which makes
    every cosine high: ``Neighbour.centred`` is the cosine seen from the mean over the tasks (each task counts
    once, however many versions it has). A cosine that is low by either view is called weak.

    The first call reads all prompts of the base model; later ones read those that are new.

    Args:
        registry: The registry.
        reference: ``sst2``, ``sst2@3``, ``sst2@prod`` or ``sha256:…``.
        base: The name or fingerprint of the base model at hand, where the reference needs one.
        limit: How many at most.
        exclude_tasks: Tasks whose prompts are not wanted.
        progress: Called with how many prompts are read, of how many.

    Raises:
        NotFoundError, AmbiguousReferenceError, ConflictError: As ``Registry.resolve`` says.
        InvalidValueError: It is no prompt of prompt tuning, or ``limit`` or ``exclude_tasks`` is none.
        CorruptObjectError: Its stored bytes are not those that were pushed.
        StoreError, DatabaseError: One of the two cannot be used.
    """
    _check_limit(limit)
    check_words("the tasks to leave out", exclude_tasks)
    version = registry.resolve(reference, base=base)
    if version.method is not Method.PROMPT_TUNING:
        reason = f"it is {version.method}, and prompts of prompt-tuning are compared"
        raise InvalidValueError("the prompt", version.ref, reason, "name one of those")
    model, listed = registry.comparable(str(version.base))
    others = [each for each in listed if each.ref != version.ref]
    digests = [version.digest, *(each.digest for each in others)]
    index, unreadable = bring_up_to_date(registry, model, digests, progress=progress)
    if version.digest in unreadable:
        raise unreadable[version.digest]
    row = index.rows()[version.digest.hex]
    embedded = int(index.embedded[row])
    own = {Compared.PROMPTS: index.prompts[row]}
    if embedded >= 0:
        own[Compared.TASK_EMBEDDINGS] = index.embeddings[embedded]
    found = compare(own, index, others)
    return _similar(registry, model, found, version, limit, exclude_tasks)


def similar_to(
    registry: "Registry",
    embedding: "NDArray[Any]",
    *,
    base: str,
    early: bool = True,
    limit: int = 10,
    exclude_tasks: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Similar:
    """Return the registered prompts that are closest to one that is not registered.

    Args:
        registry: The registry.
        embedding: [P, H] The prompt.
        base: The name or fingerprint of its base model, which is registered.
        early: Whether it is a prompt early in its training, to be compared with task embeddings; else it is
            compared with what prompts became. Prompts that do not have the one are left out.
        limit: How many at most.
        exclude_tasks: Tasks whose prompts are not wanted.
        progress: Called with how many prompts are read, of how many.

    Returns:
        As ``similar`` does; nothing counts as the same task or as kin.

    Raises:
        BaseModelNotFoundError: No such base model is registered.
        InvalidValueError: ``embedding`` is no prompt for the base model, or as ``similar`` says.
        StoreError, DatabaseError: One of the two cannot be used.
    """
    _check_limit(limit)
    check_words("the tasks to leave out", exclude_tasks)
    model, others = registry.comparable(base)
    _check_embedding(embedding, model)
    digests = [each.digest for each in others]
    index, _ = bring_up_to_date(registry, model, digests, progress=progress)
    own = {Compared.TASK_EMBEDDINGS if early else Compared.PROMPTS: summarise(embedding)}
    found = compare(own, index, others)
    return _similar(registry, model, found, None, limit, exclude_tasks)


def _similar(
    registry: "Registry",
    base: "BaseModel",
    found: Cosines,
    reference: "PromptVersion | None",
    limit: int,
    exclude_tasks: Sequence[str],
) -> Similar:
    import numpy as np

    ranked = [
        int(at)
        for at in np.argsort(-found.scores[0], kind="stable")
        if found.prompts[at].task not in exclude_tasks
    ]
    tasks = len({found.prompts[at].task for at in ranked})
    least = least_cosine(base.token_dim, tasks)
    least_centred = least_cosine(base.token_dim, tasks, _spread(found, ranked))
    own_task = None if reference is None else reference.task
    nearest = next((at for at in ranked if found.prompts[at].task != own_task), None)

    def neighbour(at: int) -> Neighbour:
        return _neighbour(registry, found, at, reference, (least, least_centred))

    neighbours = tuple(map(neighbour, ranked[:limit]))
    by_ref = {each.version.ref: each for each in neighbours}
    return Similar(
        base=base,
        reference=reference,
        neighbours=neighbours,
        nearest=None
        if nearest is None
        else by_ref.get(found.prompts[nearest].ref) or neighbour(nearest),
        prompts=len(ranked),
        tasks=tasks,
        least=least,
        least_centred=least_centred,
        notes=_notes(found),
    )


def _spread(found: Cosines, ranked: Sequence[int]) -> float:
    """Return the standard deviation of the centred cosines, told by the middle ones: the closest do not count.

    Each task counts once, by its newest prompt. Of a few tasks it tells nothing, and is 0.
    """
    import numpy as np

    newest: dict[str, float] = {}
    for at in sorted(ranked):
        newest.setdefault(found.prompts[at].task, float(found.scores[2, at]))
    values = np.array([each for each in newest.values() if not math.isnan(each)])
    if len(values) < _FEW:
        return 0
    return float(_OF_NORMAL * np.median(np.abs(values - np.median(values))))


def _neighbour(
    registry: "Registry",
    found: Cosines,
    at: int,
    reference: "PromptVersion | None",
    least: tuple[float, float],
) -> Neighbour:
    """Return the prompt at ``at``; ``least`` has the cosine, and the centred one, that say something."""
    version = registry.resolve(found.prompts[at].ref)
    cosine, per_token, centred = (float(each) for each in found.scores[:, at])
    weak = None
    if cosine < least[0]:
        weak = Weakness.LOW
    elif centred < least[1]:  # which NaN is not
        weak = Weakness.SHARED
    return Neighbour(
        version=version,
        cosine=cosine,
        per_token=per_token,
        centred=None if math.isnan(centred) else centred,
        compared=Compared.TASK_EMBEDDINGS if found.early[at] else Compared.PROMPTS,
        same_task=reference is not None and version.task == reference.task,
        kin=None if reference is None else kinship(reference, version),
        weak=weak,
    )


def _notes(found: Cosines) -> tuple[str, ...]:
    notes = []
    every = len(found.prompts) + found.embeddingless
    late = len(found.prompts) - int(found.early.sum())
    if found.early.any() and late:
        notes.append(
            f"{late} of {len(found.prompts)} prompts have no task embedding and were compared as they became, "
            "the others as they were early: cosines of the two kinds are not quite of one scale"
        )
    if found.embeddingless:
        notes.append(
            f"left out for lack of a task embedding: {found.embeddingless} of {every} prompts, for an early "
            "prompt is not compared with what others became"
        )
    if found.unreadable:
        shown = ", ".join(each.ref for each in found.unreadable[:3])
        more = len(found.unreadable) - 3
        notes.append(
            f"left out, because the store does not hold what was pushed: {shown}"
            + (f" and {more} more" if more > 0 else "")
            + "; 'promptreg pull' says what is wrong"
        )
    return tuple(notes)


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= _MOST:
        reason = f"1 to {_MOST} prompts are listed"
        raise InvalidValueError("the limit", str(limit), reason, "ask for fewer")


def _check_embedding(embedding: "NDArray[Any]", base: "BaseModel") -> None:
    import numpy as np

    shape = list(embedding.shape)
    if len(shape) != _AXES or not shape[0] or shape[1] != base.token_dim:
        reason = f"prompts on {base} are [tokens, {base.token_dim}]"
        raise InvalidValueError("the embedding", str(shape), reason, "give one of that shape")
    if not np.isfinite(embedding).all():
        reason = "it holds NaN or infinity"
        raise InvalidValueError("the embedding", str(shape), reason, "lower the learning rate")
