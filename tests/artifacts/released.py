"""The prompts whose files every release keeps here, and the script that writes them.

Before a release that changes what is written, run ``python tests/artifacts/released.py tests/artifacts/NEW``,
and commit the new directory beside the old ones. Nothing in an old directory is ever changed.
"""

import struct
import sys
from pathlib import Path

from promptreg import artifacts
from promptreg.artifacts import dump_tensors
from promptreg.bases import BaseModel
from promptreg.fingerprints import Fingerprint
from promptreg.prompts import Method, Placement, SoftPrompt, TaskType, Tensor, Vote

__all__ = ["BARE", "BASE", "ENSEMBLE", "HALF", "PLAIN", "PROMPTS", "write_all"]

BASE = BaseModel(
    fingerprint=Fingerprint("bfp1:" + "0123456789abcdef" * 4),
    embedding="a" * 64,
    body="b" * 64,
    architecture="LlamaForCausalLM",
    model_type="llama",
    token_dim=4,
    vocab_size=32,
    num_layers=3,
    key_value_dim=4,
    parameters=1000,
    dtype="F32",
    source="acme/tiny-llama",
    revision="main",
)


def _counting(*shape: int, dtype: str = "F32") -> Tensor:
    """Return a tensor of eighths, counted up: the same numbers whatever library draws them."""
    length = 1
    for each in shape:
        length *= each
    numbers = [(count - 3) / 8 for count in range(length)]
    data = struct.pack(f"<{length}{'f' if dtype == 'F32' else 'e'}", *numbers)
    return Tensor(dtype=dtype, shape=shape, data=data)


def _prompt(method: Method, tensors: dict[str, Tensor], **fields: object) -> SoftPrompt:
    known: dict[str, object] = {
        "method": method,
        "tensors": tensors,
        "num_virtual_tokens": 2,
        "token_dim": 4,
        "task_type": TaskType.CAUSAL_LM,
        "template": "{text} It was",
        "labels": ("schlecht", "großartig"),
        "init": "text",
        "hyperparameters": {"lr": 0.3, "steps": 100, "tied": True, "optimizer": "adafactor"},
    }
    return SoftPrompt(**(known | fields))  # type: ignore[arg-type]


PROMPTS = {
    "prompt-tuning": _prompt(
        Method.PROMPT_TUNING,
        {
            "prompt_embeddings": _counting(2, 4),
            "modules_to_save.base_model.score.weight": _counting(3, 4, dtype="F16"),
        },
        placement=Placement.AFTER_BOS,
        task_type=TaskType.SEQ_CLS,
    ),
    "p-tuning": _prompt(Method.P_TUNING, {"prompt_embeddings": _counting(2, 4)}),
    "prefix-tuning": _prompt(
        Method.PREFIX_TUNING,
        {"prompt_embeddings": _counting(2, 3 * 2 * 4)},
        num_layers=3,
        placement=Placement.KEY_VALUES,
    ),
    "multitask-prompt-tuning": _prompt(
        Method.MULTITASK_PROMPT_TUNING,
        {
            "prompt_embeddings": _counting(2, 4),
            "prefix_task_cols": _counting(2, 2, 1),
            "prefix_task_rows": _counting(2, 1, 4),
            "decoder_prompt_embeddings": _counting(2, 4),
            "decoder_prefix_task_cols": _counting(2, 2, 1),
        },
        task_type=TaskType.SEQ_2_SEQ_LM,
    ),
    "cpt": _prompt(Method.CPT, {"prompt_embeddings": _counting(2, 4)}),
}
"""One of each method that PEFT has; written as PEFT directories and in our own form."""
ENSEMBLE = _prompt(
    Method.ENSEMBLE,
    {
        "members.0.prompt_embeddings": _counting(2, 4),
        "members.0.modules_to_save.base_model.score.weight": _counting(3, 4, dtype="F16"),
        "members.1.prompt_embeddings": _counting(1, 4),
        "members.1.modules_to_save.base_model.score.weight": _counting(3, 4, dtype="F16"),
    },
    num_virtual_tokens=3,
    members=("sst2@3", "sst2@5"),
    vote=Vote.MEAN,
    task_type=TaskType.SEQ_CLS,
    init=None,
    hyperparameters={},
)
"""Written in our own form only."""


def _bare(tensor: Tensor, source_format: str) -> SoftPrompt:
    return SoftPrompt(
        method=Method.PROMPT_TUNING,
        tensors={"prompt_embeddings": tensor},
        num_virtual_tokens=2,
        token_dim=4,
        source_format=source_format,
    )


PLAIN = _bare(_counting(2, 4), "npy")
HALF = _bare(_counting(2, 4, dtype="F16"), "npy")
BARE = _bare(_counting(2, 4), "safetensors")


def write_all(directory: Path) -> None:
    """Write every format's files below ``directory``, which must not exist."""
    for folder in ("peft", "safetensors", "npy", "bare"):
        (directory / folder).mkdir(parents=True)
    for name, prompt in PROMPTS.items():
        artifacts.write(prompt, directory / "peft" / name, "peft", base=BASE)
        artifacts.write(prompt, directory / "safetensors" / name, "safetensors", base=BASE)
    artifacts.write(ENSEMBLE, directory / "safetensors" / "ensemble", "safetensors", base=BASE)
    artifacts.write(PLAIN, directory / "npy" / "float32.npy", "npy")
    artifacts.write(HALF, directory / "npy" / "float16.npy", "npy")
    (directory / "bare" / "prompt.safetensors").write_bytes(dump_tensors(BARE.tensors))
    artifacts.write_table({"sst2": PLAIN, "acme/mail": HALF}, directory / "tensorrt-llm")


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
