"""The real base model: Gemma 3 270M, made once by the code of the ``real`` tests."""

import sys
from pathlib import Path

__all__ = ["real_base"]


def real_base() -> Path:
    """Return the directory of Gemma 3 270M in bf16 safetensors; it is made the first time."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from real.gemma import base_directory

    path: Path = base_directory()
    return path
