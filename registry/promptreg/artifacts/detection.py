"""Which format lies at a path: told by its content, never by its name."""

from promptreg.artifacts.bundle import SafetensorsFormat
from promptreg.artifacts.formats import Format
from promptreg.artifacts.found import Found
from promptreg.artifacts.npy import NpyFormat
from promptreg.artifacts.peft import PeftFormat
from promptreg.artifacts.tensorrt_llm import TensorrtLlmFormat
from promptreg.errors import ConversionError, UnknownFormatError

__all__ = ["FORMATS", "detect", "format_named"]

_FORMATS: tuple[Format, ...] = (
    PeftFormat(),
    SafetensorsFormat(),
    NpyFormat(),
    TensorrtLlmFormat(),
)
FORMATS: tuple[str, ...] = tuple(each.name for each in _FORMATS)
"""The formats that a prompt can be written in, the usual one first."""

_MOST_SHOWN = 4


def detect(found: Found) -> Format:
    """Return the format of what was found.

    Raises:
        PickleRefusedError: It is a pickle.
        UnknownFormatError: It is none that promptreg reads.
    """
    for each in _FORMATS:
        if each.detect(found):
            return each
    raise UnknownFormatError(str(found), _describe(found))


def format_named(name: str) -> Format:
    """Return the format that a person asked for.

    Raises:
        ConversionError: There is none of that name.
    """
    for each in _FORMATS:
        if each.name == name:
            return each
    raise ConversionError(
        repr(name), "there is no such format", f"choose from {', '.join(FORMATS)}"
    )


def _describe(found: Found) -> str:
    if not found.is_directory:
        return "its bytes are in no format of soft prompts" if found.data else "it is empty"
    if not found.names:
        return "it is an empty directory"
    inner = sorted(
        name for name in found.names if (found.path / name / "adapter_config.json").is_file()
    )
    if inner:
        return f"it holds PEFT directories (name one of {_some(inner)})"
    if "adapter_config.json" in found.names:
        return "its adapter_config.json names no peft_type"
    return f"it is a directory with {_some(sorted(found.names))}, and no adapter_config.json"


def _some(names: list[str]) -> str:
    more = ", ..." if len(names) > _MOST_SHOWN else ""
    return ", ".join(ascii(name)[1:-1] for name in names[:_MOST_SHOWN]) + more
