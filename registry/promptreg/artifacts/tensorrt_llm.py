"""TensorRT-LLM's prompt table: the prompts of several tasks in one array [T, P, H], padded with zeros.

T is the number of tasks, P the length of the longest prompt, H the embedding width. The table alone does not
say how long each prompt is, and a runner needs that to number a request's virtual tokens: the lengths, and the
tasks' names in the table's order, stand beside it in ``prompt_table.json``.
"""

from collections.abc import Mapping

from promptreg.artifacts.arrays import to_array
from promptreg.artifacts.formats import Format, Rendering, left_out, refuse_all_but_rows
from promptreg.artifacts.found import Found
from promptreg.artifacts.npy import array_bytes
from promptreg.bases import BaseModel
from promptreg.documents import render_document
from promptreg.errors import ConversionError, InvalidArtifactError
from promptreg.layouts import PROMPT_EMBEDDINGS
from promptreg.prompts import SoftPrompt

__all__ = ["TensorrtLlmFormat", "render_table"]

_NAME = "tensorrt-llm"
_TABLE = "prompt_table.npy"
_LENGTHS = "prompt_table.json"
_FORMAT = "promptreg.prompt-table/1"


class TensorrtLlmFormat(Format):
    """A prompt table; it is written and recognised, but holds too little to be read as prompts again."""

    name = _NAME

    def _detect(self, found: Found) -> bool:
        return {_TABLE, _LENGTHS} <= found.names

    def _read(self, found: Found) -> SoftPrompt:
        raise InvalidArtifactError(
            str(found),
            "it is a prompt table for TensorRT-LLM, a copy without what made its prompts",
            "pull the prompts that prompt_table.json names instead",
        )

    def _render(self, prompt: SoftPrompt, base: BaseModel | None, name: str) -> Rendering:
        del base  # a table has no place for it
        return render_table({name: prompt})


def render_table(prompts: Mapping[str, SoftPrompt]) -> Rendering:
    """Return the files of a table with ``prompts`` in their order, by the names of their tasks.

    Raises:
        ConversionError: There are none, they differ in width, or one is more than rows.
    """
    import numpy as np

    for prompt in prompts.values():
        refuse_all_but_rows(prompt, _NAME)
    _check_widths(prompts)
    rows = [to_array(prompt.tensors[PROMPT_EMBEDDINGS]) for prompt in prompts.values()]  # [P_t, H]
    lengths = [len(each) for each in rows]
    dtype = np.result_type(*rows)  # float32 unless all are float16
    table = np.zeros((len(rows), max(lengths), rows[0].shape[1]), dtype=dtype)  # [T, P, H]
    for index, each in enumerate(rows):
        table[index, : len(each)] = each
    sidecar = {
        "format": _FORMAT,
        "table": _TABLE,
        "shape": list(table.shape),
        "tasks": [
            {"index": index, "name": name, "num_virtual_tokens": length}
            for index, (name, length) in enumerate(zip(prompts, lengths, strict=True))
        ],
    }
    files = {_TABLE: array_bytes(table), _LENGTHS: render_document(sidecar)}
    return Rendering(files=files, notes=_notes(prompts))


def _check_widths(prompts: Mapping[str, SoftPrompt]) -> None:
    widths = {prompt.token_dim: name for name, prompt in prompts.items()}
    if len(widths) != 1:
        found = ", ".join(f"{name} is {width} wide" for width, name in widths.items())
        raise ConversionError(
            _NAME,
            f"a table has one width, and {found or 'there is no prompt'}",
            "name prompts of one base model",
        )


def _notes(prompts: Mapping[str, SoftPrompt]) -> tuple[str, ...]:
    notes = []
    for name, prompt in prompts.items():
        if prompt.tensors[PROMPT_EMBEDDINGS].dtype == "BF16":
            notes.append(f"{name}: numpy has no bfloat16: the numbers are written as float32")
        rest = left_out(prompt)
        if rest:
            notes.append(f"{name}: a prompt table leaves out {', '.join(rest)}")
    return tuple(notes)
