"""The interface of a format: bytes to a soft prompt, a soft prompt to bytes. No format touches the disk."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from promptreg.artifacts.arrays import check_finite
from promptreg.artifacts.found import Found
from promptreg.bases import BaseModel
from promptreg.errors import ConversionError, InvalidArtifactError
from promptreg.layouts import MODULES_PREFIX, TASK_EMBEDDING, check_layout, trained_modules
from promptreg.prompts import Method, Placement, SoftPrompt

__all__ = ["Format", "Rendering", "checked", "left_out", "refuse_all_but_rows", "refuse_ensemble"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """A soft prompt as a format writes it.

    Attributes:
        files: The bytes of each file by its name, in the order in which they are to be written; the one that
            makes a directory recognisable comes last.
        directory: Whether the destination is a directory of them, or is itself the one file.
        notes: What the format could not carry, a sentence each.
    """

    files: Mapping[str, bytes]
    directory: bool = True
    notes: tuple[str, ...] = ()


class Format(ABC):
    """One way in which soft prompts lie on disk."""

    name: ClassVar[str]
    """What a person asks for."""

    def detect(self, found: Found) -> bool:
        """Return whether this is the format of what was found, by its content.

        Raises:
            PickleRefusedError: It is a pickle.
            InvalidArtifactError: It cannot be read.
        """
        return self._detect(found)

    def read(self, found: Found) -> SoftPrompt:
        """Return the soft prompt that was found, its tensors in the shapes that its numbers say.

        Raises:
            PickleRefusedError: A pickle is in a place of tensors.
            InvalidArtifactError: It breaks the format's rules.
        """
        return checked(self._read(found), str(found))

    def render(self, prompt: SoftPrompt, *, base: BaseModel | None, name: str) -> Rendering:
        """Return the files that hold ``prompt``.

        Args:
            prompt: What to write.
            base: The base model that it was trained on, if it is at hand.
            name: What to call the prompt, in a format that has a place for a name.

        Raises:
            InvalidArtifactError: Its tensors are not in the shapes that its numbers say, or not finite.
            ConversionError: The format cannot hold what makes the prompt work.
        """
        checked(prompt, "the prompt")
        check_finite(prompt.tensors, "the prompt")
        return self._render(prompt, base, name)

    @abstractmethod
    def _detect(self, found: Found) -> bool:
        """Tell the format by its content: cheap, and wrong only on what ``_read`` then refuses."""

    @abstractmethod
    def _read(self, found: Found) -> SoftPrompt:
        """Read the prompt; what is broken is an InvalidArtifactError that names the file."""

    @abstractmethod
    def _render(self, prompt: SoftPrompt, base: BaseModel | None, name: str) -> Rendering:
        """Turn the prompt into files, and say what is left out."""


def checked(prompt: SoftPrompt, where: str, said_by: str | None = None) -> SoftPrompt:
    """Return ``prompt`` if its tensors have the shapes that its numbers say.

    Args:
        prompt: What was read.
        where: The path of its tensors, for the error.
        said_by: The file that its numbers come from, if they do not come from the tensors themselves.

    Raises:
        InvalidArtifactError: They have not.
    """
    try:
        check_layout(prompt)
    except ValueError as error:
        source = f" (by what {said_by} says)" if said_by else ""
        remedy = "save the prompt again in those shapes, or fetch an undamaged copy"
        raise InvalidArtifactError(where, f"{error}{source}", remedy) from error
    return prompt


def refuse_ensemble(prompt: SoftPrompt, wanted: str) -> None:
    """Return if the prompt is one prompt.

    Raises:
        ConversionError: It is several, of which only our own form knows how they answer together.
    """
    if prompt.method is Method.ENSEMBLE:
        raise ConversionError(
            wanted,
            f"it is an ensemble of {len(prompt.members)} prompts, and that format holds one",
            f"pull its members instead ({', '.join(prompt.members)}), or write it as 'safetensors'",
        )


def refuse_all_but_rows(prompt: SoftPrompt, wanted: str) -> None:
    """Return if the prompt is nothing but rows in front of the input: [P, H].

    Raises:
        ConversionError: It is more, which an array cannot hold.
    """
    refuse_ensemble(prompt, wanted)
    reason = None
    modules = trained_modules(prompt)
    if prompt.method is Method.PREFIX_TUNING:
        reason = (
            "prefix tuning trains keys and values of every layer, not rows in front of the input"
        )
    elif prompt.method is Method.MULTITASK_PROMPT_TUNING:
        reason = "it is a multitask prompt, which holds two factors for each task beside its rows"
    elif modules:
        names = ", ".join(name.removeprefix(MODULES_PREFIX) for name in modules)
        reason = f"modules of the base model were trained with it ({names})"
    if reason:
        remedy = "write it as 'peft' or 'safetensors', which hold all of it"
        raise ConversionError(wanted, reason, remedy)


def left_out(prompt: SoftPrompt) -> list[str]:
    """Return, in words, what the prompt carries beside its rows."""
    carried = {
        f"the method ({prompt.method})": prompt.method is not Method.PROMPT_TUNING,
        f"the placement ({prompt.placement})": prompt.placement is not Placement.PREFIX,
        f"the task type ({prompt.task_type})": prompt.task_type is not None,
        "the template": prompt.template is not None,
        "the labels": bool(prompt.labels),
        "the task embedding": TASK_EMBEDDING in prompt.tensors,
        "how it was initialised": prompt.init is not None,
        f"the hyperparameters ({', '.join(sorted(prompt.hyperparameters))})": bool(
            prompt.hyperparameters
        ),
        f"the configuration of {prompt.source_format}": bool(prompt.source_config),
    }
    return [what for what, present in carried.items() if present]
