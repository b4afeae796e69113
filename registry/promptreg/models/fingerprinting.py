"""Fingerprinting base models: two views, one root.

``from_files`` streams a directory's weights without building the model; ``from_module`` hashes what will really
run. The scheme is specified in docs/format.md, "The fingerprint".
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptreg.bases import BaseModel
from promptreg.errors import MissingDependencyError, UnreadableBaseModelError
from promptreg.models import remembered_files, remembered_modules

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from promptreg.models.casts import Casts
    from promptreg.models.checkpoints import Checkpoint
    from promptreg.models.facts import Origin
    from promptreg.models.skeletons import Skeleton
    from promptreg.models.tensors import TensorDigest
    from promptreg.models.weight_files import WeightFiles

__all__ = ["from_files", "from_module"]


def from_files(
    directory: str | Path,
    *,
    name: str | None = None,
    cache: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> BaseModel:
    """Fingerprint the base model in ``directory`` from its files, without building it in memory.

    Its architecture is built on the meta device to learn what transformers would make of the files: which
    tensors are weights, what they are called, which are tied. No code in the directory is run.

    Args:
        directory: What ``save_pretrained`` writes: ``config.json`` and ``*.safetensors``.
        name: What to call the base model.
        cache: Whether to believe what was found before, while no file has changed.
        progress: Called with (bytes done, bytes in all) as the weights are read.

    Raises:
        UnreadableBaseModelError: The directory holds no base model, or a damaged one.
        LossyBaseModelError: Its weights are quantised.
        AmbiguousWeightsError: What will run cannot be told from the files: use ``from_module``.
        MissingDependencyError: torch or transformers is not installed.
    """
    directory = Path(directory)
    state = _state(directory)
    if cache and (known := remembered_files.recall(state)) is not None:
        return replace(known, name=name)
    base = _read(directory, progress or (lambda _done, _total: None))
    if _state(directory).stamps != state.stamps:
        reason = "its files changed while they were read"
        remedy = "wait until they are written, and run the command again"
        raise UnreadableBaseModelError(str(directory), reason, remedy)
    if cache and state.settled:
        remembered_files.remember(state, base)
    return replace(base, name=name)


def from_module(model: object, *, cache: bool = True) -> BaseModel:
    """Fingerprint a base model in memory: what will really run.

    Args:
        model: A transformers model on any device, or one that ``torch.compile``, ``DistributedDataParallel``
            or PEFT is wrapped around; an adapter's own parameters are no part of the base model.
        cache: Whether to believe what was found before, while no weight was replaced or seen to be written to.
            A write through ``.data`` to a few values (``weight.data[7] = 0``) may go unseen: then say False,
            and what is found is remembered instead.

    Raises:
        UnreadableBaseModelError: It is no transformers model, or not all of its weights are in memory.
        LossyBaseModelError: It is quantised.
        MissingDependencyError: torch or transformers is not installed.
    """
    from promptreg.models.live import list_weights, unwrap

    module = unwrap(model)
    weights = list_weights(module)
    if cache and (known := remembered_modules.recall(module, weights)) is not None:
        return known
    state = remembered_modules.ModuleState(weights)
    base = _hash(module, weights)
    if state.holds(list_weights(module)):
        remembered_modules.remember(module, state, base)
    return base


def _state(directory: Path) -> remembered_files.DirectoryState:
    try:
        return remembered_files.DirectoryState.of(directory)
    except OSError as error:
        reason = f"it cannot be listed ({error.strerror})"
        remedy = "give a directory that model.save_pretrained(directory) wrote"
        raise UnreadableBaseModelError(str(directory), reason, remedy) from error


def _read(directory: Path, progress: Callable[[int, int], None]) -> BaseModel:
    from promptreg.models.skeletons import read_config
    from promptreg.models.weight_files import WeightFiles

    document = read_config(directory)
    files = WeightFiles(directory)
    total = sum(stored.size for stored in files.values() if stored.is_dense)
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done = min(done + size, total)  # what transformers rewrites may be read twice
        progress(done, total)

    try:
        # Importing transformers and building the skeleton takes longer than hashing a small model.
        with ThreadPoolExecutor(max_workers=1) as pool:
            planned = pool.submit(_plan, directory, document, files)
            ahead = _digest_until(planned.done, files, advance)
            plan = planned.result()
        base = _digest_rest(plan, ahead, advance)
    except ImportError as error:
        raise MissingDependencyError("transformers", "torch", "fingerprinting a model") from error
    progress(total, total)
    return base


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be made of a directory's files."""

    skeleton: "Skeleton"
    checkpoint: "Checkpoint"
    casts: "Casts"
    origin: "Origin"


def _plan(directory: Path, document: dict[str, Any], files: "WeightFiles") -> _Plan:
    from promptreg.models.casts import Casts
    from promptreg.models.checkpoints import Checkpoint
    from promptreg.models.facts import trace_directory
    from promptreg.models.skeletons import build_skeleton

    skeleton = build_skeleton(directory, document)
    stored = {tensor.dtype for tensor in files.values()}
    return _Plan(
        skeleton=skeleton,
        checkpoint=Checkpoint(str(directory), files, skeleton),
        casts=Casts(str(directory), document, skeleton, stored),
        origin=trace_directory(directory),
    )


def _digest_until(
    is_planned: Callable[[], bool], files: "WeightFiles", advance: Callable[[int], None]
) -> "dict[str, TensorDigest]":
    """Digest stored tensors, the largest first, until it is known which are weights; return them by key."""
    from promptreg.models.tensors import take_digest

    ahead = {}
    for stored in sorted(files.values(), key=attrgetter("size"), reverse=True):
        if is_planned():
            break
        if stored.is_dense:
            ahead[stored.name] = take_digest(files.tensor(stored), advance)
    return ahead


def _digest_rest(
    plan: _Plan, ahead: "dict[str, TensorDigest]", advance: Callable[[int], None]
) -> BaseModel:
    from promptreg.models.facts import describe, tabulate
    from promptreg.models.tensors import take_digest

    digests: dict[str, TensorDigest] = {}
    for name, stored, tensor in plan.checkpoint.read():
        known = ahead.get(stored.name) if stored else None
        digests[name] = known or take_digest(tensor, advance)
        plan.casts.check(name, tensor, digests[name])
    weights = [(names, digests[names[0]]) for names in plan.checkpoint.tie(digests)]
    return describe(plan.skeleton.model, tabulate(plan.skeleton.naming, weights), plan.origin)


def _hash(module: "PreTrainedModel", weights: "list[tuple[str, torch.Tensor]]") -> BaseModel:
    from promptreg.models.canonical import Naming
    from promptreg.models.facts import describe, tabulate, trace_module
    from promptreg.models.tensors import take_digest

    names: dict[int, list[str]] = {}
    tensors: dict[int, torch.Tensor] = {}
    for name, tensor in weights:
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    digests = [(tuple(names[key]), take_digest(tensor)) for key, tensor in tensors.items()]
    return describe(module, tabulate(Naming.of(module), digests), trace_module(module))
