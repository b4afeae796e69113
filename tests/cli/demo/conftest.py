"""The demo's base model and prompts, as anybody would load them."""

from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from promptreg_cli import demo


@pytest.fixture(scope="session")
def base() -> Any:
    return AutoModelForCausalLM.from_pretrained(demo.base_directory())


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(demo.base_directory())


@pytest.fixture(scope="session")
def prompts() -> dict[str, Tensor]:
    """Each shipped prompt by its name: [P, H]."""
    return {
        name: load_file(demo.prompt_directory(name) / "adapter_model.safetensors")[
            "prompt_embeddings"
        ]
        for name in demo.PROMPTS
    }
