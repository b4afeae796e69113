"""Skeletons: the architecture that a directory's config.json names, without any weight."""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptreg.errors import AmbiguousWeightsError, LossyBaseModelError, UnreadableBaseModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["build_skeleton", "read_config"]

_CONFIG = "config.json"


def read_config(directory: Path) -> dict[str, Any]:
    """Return what ``config.json`` says.

    Raises:
        UnreadableBaseModelError: It is not there, or is no config.
        LossyBaseModelError: It says that the weights are quantised.
    """
    remedy = "give a directory that model.save_pretrained(directory) wrote"
    if not (directory / _CONFIG).is_file():
        raise UnreadableBaseModelError(str(directory), "it has no config.json", remedy)
    try:
        document = json.loads((directory / _CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = f"its config.json cannot be read ({error})"
        raise UnreadableBaseModelError(str(directory), reason, remedy) from error
    if not isinstance(document, dict) or not isinstance(document.get("model_type"), str):
        raise UnreadableBaseModelError(
            str(directory), "its config.json names no model_type", remedy
        )
    for settings in (document, document.get("text_config")):
        if isinstance(settings, dict) and (quantisation := settings.get("quantization_config")):
            method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
            raise LossyBaseModelError(
                f"quantised ({method or 'quantization_config'} in config.json)"
            )
    return document


def build_skeleton(directory: Path, document: dict[str, Any]) -> "PreTrainedModel":
    """Build the model that a ``config.json`` names on the meta device: its modules, and no weights.

    Only classes of the installed transformers are built; code in the directory is never run.

    Args:
        directory: Where the ``config.json`` lies.
        document: What it says.

    Raises:
        AmbiguousWeightsError: The model is code that comes with the directory.
        UnreadableBaseModelError: transformers does not know the architecture, or not with these settings.
    """
    import transformers

    if document["model_type"] not in transformers.CONFIG_MAPPING:
        if document.get("auto_map"):
            reason = "its model is code in the directory, which is not run to find out"
            raise AmbiguousWeightsError(str(directory), reason)
        reason = f"transformers {transformers.__version__} knows no model_type {document['model_type']!r}"
        remedy = "install the release of transformers that its config.json names"
        raise UnreadableBaseModelError(str(directory), reason, remedy)
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(directory), trust_remote_code=False, local_files_only=True
        )
        kind = _class_of(config, document)
        settings = config.to_json_string(use_diff=False)
        return _build(_Recipe(kind=kind, settings=settings, config=config))
    # A config holds whatever its author wrote, and each architecture fails on it in its own way.
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        reason = f"transformers cannot build what its config.json describes ({first})"
        raise UnreadableBaseModelError(
            str(directory), reason, "fetch the directory again, whole"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """What a skeleton is built from; two are equal if their settings are."""

    kind: Any
    settings: str
    config: Any = field(compare=False)


@lru_cache(maxsize=16)
def _build(recipe: _Recipe) -> "PreTrainedModel":
    """Build a skeleton; a team has many models of one architecture, and nobody writes to a skeleton."""
    import torch

    with torch.device("meta"):
        skeleton: PreTrainedModel = recipe.kind._from_config(  # noqa: SLF001
            recipe.config, attn_implementation="eager"
        )
    return skeleton


def _class_of(config: "PretrainedConfig", document: dict[str, Any]) -> Any:
    """Return the class that ``document`` names, or the bare backbone if it names none that is known."""
    import transformers

    for name in document.get("architectures") or ():
        found = getattr(transformers, str(name), None)
        if (
            isinstance(found, type)
            and issubclass(found, transformers.PreTrainedModel)
            and found.config_class is not None
            and isinstance(config, found.config_class)
        ):
            return found
    return transformers.MODEL_MAPPING[type(config)]
