"""The demo's wrong base: the shipped one after somebody touched its weights."""

import shutil
from pathlib import Path

__all__ = ["CHANGED_TENSOR", "wrong_base"]

CHANGED_TENSOR = "model.layers.1.mlp.down_proj.weight"

_WEIGHTS = "model.safetensors"
_NOISE = 5.0  # times the layer's deviation: the least that spoils a prompt for all to see


def wrong_base(source: Path, destination: Path) -> None:
    """Copy the base model ``source`` to ``destination``, with noise in one layer's weights.

    It stands for a base that was trained a little more after its prompts were. It loads, has the
    same names, shapes and embedding, and copies bare texts as well as ever: nothing but its
    weights tells it from the right one. Yet with ``shout`` in front it writes ``GARDen``.

    Args:
        source: A directory of transformers with one ``model.safetensors``.
        destination: A directory that does not exist yet.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save

    shutil.copytree(source, destination)
    weights = destination / _WEIGHTS
    tensors = load_file(weights)
    with safe_open(weights, framework="pt") as file:
        metadata = file.metadata()
    changed = tensors[CHANGED_TENSOR].float()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(changed.shape, generator=generator) * changed.std() * _NOISE
    tensors[CHANGED_TENSOR] = (changed + noise).to(tensors[CHANGED_TENSOR].dtype)
    weights.write_bytes(save(tensors, metadata))
