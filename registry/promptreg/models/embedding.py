"""The base model's input embedding alone: what turns a text into the vectors that the base model reads."""

from copy import copy, deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from promptreg.errors import AttachError
from promptreg.models.canonical import walk, walk_modules
from promptreg.models.checkpoints import Checkpoint
from promptreg.models.skeletons import Skeleton, build_skeleton, read_config
from promptreg.models.weight_files import WeightFiles

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["load_embedded_skeleton", "load_input_embedding"]


def load_input_embedding(directory: str | Path, *, dtype: torch.dtype | None = None) -> nn.Module:
    """Load the input embedding of the base model in a directory, and nothing else of it.

    Args:
        directory: What ``save_pretrained`` writes: ``config.json`` and ``*.safetensors``.
        dtype: What its weight is cast to; None for what is stored. A model that scales its embedding (Gemma)
            rounds the scale to that dtype too, so it must be the dtype that the model runs in.

    Returns:
        The model's own module: it turns token ids [T] (or [B, T]) into vectors [T, H] (or [B, T, H]), scaled if
        the model scales them. It is on the CPU, frozen, in evaluation mode.

    Raises:
        UnreadableBaseModelError: The directory holds no base model, or a damaged one.
        LossyBaseModelError: Its weights are quantised.
        AmbiguousWeightsError: What transformers would make of the files cannot be told.
        AttachError: The embedding is made of more than one table.
    """
    model: Any = load_embedded_skeleton(Path(directory), dtype=dtype)
    embedding: nn.Module = model.get_input_embeddings()
    return embedding


def load_embedded_skeleton(
    directory: Path, *, dtype: torch.dtype | None = None
) -> "PreTrainedModel":
    """Return the base model in ``directory`` without any weight but its input embedding's.

    Args:
        directory: As in ``load_input_embedding``.
        dtype: As in ``load_input_embedding``.

    Returns:
        The model on the meta device, its input embedding on the CPU: enough to tell what fits it.

    Raises:
        BaseModelError: As in ``load_input_embedding``.
        AttachError: As in ``load_input_embedding``.
    """
    skeleton = build_skeleton(directory, read_config(directory))
    shared: Any = skeleton.model
    # The skeleton is remembered and shared: the embedding, and the modules on the way to it, are copied.
    model: Any = _copy_way(shared, shared.get_input_embeddings())
    embedding: nn.Module = model.get_input_embeddings()
    _check_one_table(model, embedding)
    stored = _read_weight(str(directory), WeightFiles(directory), skeleton)
    # Cast before it is filled: Gemma's scale is a buffer, and must not be rounded to another dtype first.
    embedding.to(dtype or stored.dtype).to_empty(device="cpu")
    weight = nn.Parameter(embedding.get_parameter("weight").data, requires_grad=False)
    weight._is_hf_initialized = True  # type: ignore[attr-defined]  # noqa: SLF001 - it need not be drawn
    embedding.weight = weight
    model._init_weights(embedding)  # noqa: SLF001 - fills what no file holds: Gemma's scale
    weight.data.copy_(stored)
    embedding.train(mode=False)
    whole: PreTrainedModel = model
    return whole


def _copy_way(module: nn.Module, wanted: nn.Module) -> nn.Module:
    """Return a copy of ``module`` that shares everything but ``wanted`` and what leads to it."""
    if module is wanted:
        return deepcopy(module)
    duplicate = copy(module)
    children = module._modules.items()  # noqa: SLF001 - named_children leaves out duplicates
    duplicate._modules = {  # noqa: SLF001
        name: child if child is None or not _holds(child, wanted) else _copy_way(child, wanted)
        for name, child in children
    }
    return duplicate


def _holds(module: nn.Module, wanted: nn.Module) -> bool:
    return any(each is wanted for each in module.modules())


def _check_one_table(model: nn.Module, embedding: nn.Module) -> None:
    names = [name for name, _ in walk(walk_modules(embedding))]
    if names != ["weight"]:
        raise AttachError(
            f"the input embedding of a {type(model).__name__} is made of {', '.join(names) or 'nothing'}, and "
            "not of one table",
            "use the prompt in process, with promptreg.attach",
        )


def _read_weight(source: str, files: WeightFiles, skeleton: Skeleton) -> torch.Tensor:
    """Return [V, H] The embedding's weight, or the one that it is tied to where the files hold only that."""
    wanted = skeleton.naming.prefix + skeleton.naming.embedding
    ties = getattr(skeleton.model, "all_tied_weights_keys", {})
    owner = ties.get(wanted, wanted)
    tied = {wanted, owner, *(name for name, source in ties.items() if source == owner)}
    instead = None
    for name, stored, tensor in Checkpoint(source, files, skeleton).read():
        if name == wanted:
            return tensor
        if name in tied:
            instead = tensor
        elif stored is None and instead is not None:
            break  # what follows is made of several tensors, with much work, and none of it is wanted
    # The reader raises an error at its end where a weight is neither stored nor tied to one that is.
    assert instead is not None  # noqa: S101
    return instead
