"""Soft prompts with random values, and PEFT's way of using them: one task after another."""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from promptreg import Method, SoftPrompt, Tensor

__all__ = ["peft_tasks", "soft_prompts"]


def soft_prompts(count: int, tokens: int, width: int) -> list[SoftPrompt]:
    """Return ``count`` prompts [tokens, width] of random numbers."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        numbers = (0.5 * rng.standard_normal((tokens, width))).astype("<f4")
        made.append(
            SoftPrompt(
                method=Method.PROMPT_TUNING,
                tensors={
                    "prompt_embeddings": Tensor(
                        dtype="F32", shape=numbers.shape, data=numbers.tobytes()
                    )
                },
                num_virtual_tokens=tokens,
                token_dim=width,
            )
        )
    return made


@contextmanager
def peft_tasks(model: Any, prompts: Sequence[SoftPrompt]) -> Iterator[Callable[..., Any]]:
    """Yield what runs one task's rows in PEFT: it switches to the task's prompt and generates."""
    from peft import PeftModel

    from promptreg import artifacts

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, prompt in enumerate(prompts):
            artifacts.write(prompt, Path(folder) / str(number), "peft")
        peer: Any = PeftModel.from_pretrained(model, f"{folder}/0", adapter_name="0")
        for number in range(1, len(prompts)):
            peer.load_adapter(f"{folder}/{number}", adapter_name=str(number))
        peer.eval()

        def run(task: int, ids: Any, mask: Any, how: dict[str, Any]) -> Any:
            peer.set_adapter(str(task))
            return peer.generate(input_ids=ids, attention_mask=mask, **how)

        yield run
