"""Skeletons: the architecture that a directory's config.json names, without any weight."""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptreg.errors import AmbiguousWeightsError, LossyBaseModelError, UnreadableBaseModelError
from promptreg.models.canonical import Naming, walk, walk_modules

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["Skeleton", "build_skeleton", "read_config"]

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Skeleton:
    """An architecture on the meta device: its modules, and no weights.

    Attributes:
        model: The model itself. Nobody writes to it.
        naming: How its weights are called.
        weights: Its weights, without values: shape and dtype by name.
        places: What a checkpoint's tensors may become: the weights, and integer buffers beside them.
    """

    model: "PreTrainedModel"
    naming: Naming
    weights: "dict[str, torch.Tensor]"
    places: dict[str, Any]


def build_skeleton(directory: Path, document: dict[str, Any]) -> Skeleton:
    """Build the model that a ``config.json`` names, without its weights.

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
        return _build(_Recipe(settings=json.dumps(document), directory=directory))
    except UnreadableBaseModelError:
        raise
    # A config holds whatever its author wrote, and each architecture fails on it in its own way.
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        reason = f"transformers cannot build what its config.json describes ({first})"
        remedy = "fetch the directory again, whole"
        raise UnreadableBaseModelError(str(directory), reason, remedy) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """What a skeleton is built from; two are equal if their settings are."""

    settings: str
    directory: Path = field(compare=False)


# A team has many models of one architecture, and building one takes longer than hashing it if it is small.
@lru_cache(maxsize=16)
def _build(recipe: _Recipe) -> Skeleton:
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(
        str(recipe.directory), trust_remote_code=False, local_files_only=True
    )
    kind = _class_of(config, json.loads(recipe.settings))
    with torch.device("meta"):
        model: PreTrainedModel = kind._from_config(config, attn_implementation="eager")  # noqa: SLF001
    return Skeleton(
        model=model,
        naming=Naming.of(model),
        weights=dict(walk(walk_modules(model))),
        places=model.state_dict(),
    )


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
