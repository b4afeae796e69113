"""Soft prompts on disk: read from any format, told by its content, and written in the one asked for."""

from collections.abc import Mapping
from pathlib import Path

from promptreg.artifacts.detection import FORMATS, detect, format_named
from promptreg.artifacts.formats import Format, Rendering
from promptreg.artifacts.found import Found
from promptreg.artifacts.placing import place_directory, place_file
from promptreg.artifacts.tensorrt_llm import render_table
from promptreg.artifacts.tensors import dump_tensors, load_tensors
from promptreg.bases import BaseModel
from promptreg.prompts import SoftPrompt

__all__ = [
    "FORMATS",
    "Format",
    "Rendering",
    "dump_tensors",
    "load_tensors",
    "read",
    "write",
    "write_table",
]


def read(path: Path) -> SoftPrompt:
    """Read a soft prompt from a PEFT directory, our own form, a bare safetensors file or an ``.npy`` array.

    Nothing is unpickled, and nothing that the file says is trusted: see docs/format.md for the limits.

    Args:
        path: Where it lies. The format is told by its content.

    Returns:
        The prompt; its ``notes`` say what the reader left behind.

    Raises:
        PickleRefusedError: It is a pickle, which runs code when it is loaded.
        UnknownFormatError: It is in no format that promptreg reads.
        InvalidArtifactError: The format is known, and its rules are broken.
    """
    found = Found(Path(path))
    return detect(found).read(found)


def write(
    prompt: SoftPrompt,
    destination: Path,
    format: str = "peft",  # noqa: A002, the word that everybody knows for it
    *,
    base: BaseModel | None = None,
    name: str = "prompt",
) -> tuple[str, ...]:
    """Write ``prompt`` to ``destination``, whole or not at all.

    Args:
        prompt: What to write.
        destination: A directory that does not exist yet or is empty; for ``npy`` a file that does not exist.
        format: One of ``FORMATS``.
        base: The base model that it was trained on, if it is at hand: PEFT's configuration names it.
        name: What to call the prompt where a format has a place for that: its task in a prompt table.

    Returns:
        What the format could not carry, a sentence each.

    Raises:
        ConversionError: The format cannot hold what makes the prompt work.
        DestinationError: Something is there already, or the place cannot be written.
        StoreFullError: There is no room left.
    """
    return _place(format_named(format).render(prompt, base=base, name=name), Path(destination))


def write_table(prompts: Mapping[str, SoftPrompt], destination: Path) -> tuple[str, ...]:
    """Write the prompts of several tasks as one prompt table for TensorRT-LLM.

    Args:
        prompts: The prompts in the table's order, by the names of their tasks.
        destination: A directory that does not exist yet or is empty.

    Returns:
        What the table could not carry, a sentence each.

    Raises:
        ConversionError: There are none, they differ in width, or one is more than rows.
        DestinationError: Something is there already, or the place cannot be written.
        StoreFullError: There is no room left.
    """
    return _place(render_table(prompts), Path(destination))


def _place(rendering: Rendering, destination: Path) -> tuple[str, ...]:
    if rendering.directory:
        place_directory(destination, rendering.files)
    else:
        (data,) = rendering.files.values()
        place_file(destination, data)
    return rendering.notes
