"""A base model that is held frozen, and proved at each use to be what it was."""

import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, SupportsIndex

import torch

from promptreg.errors import AttachError
from promptreg.models.anatomy import Anatomy
from promptreg.models.fingerprinting import from_module
from promptreg.models.freezing import freeze, thaw
from promptreg.models.loading import find_tokenizer
from promptreg.models.watching import Watch

if TYPE_CHECKING:
    from transformers import (
        GenerationConfig,
        PretrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

    from promptreg.bases import BaseModel

__all__ = ["FrozenModel"]


class FrozenModel:
    """A base model while something is attached to it: frozen, in evaluation mode, with the weights that it had.

    It cannot be copied or pickled: nobody would have frozen the copy's base model.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        *,
        cache: bool = True,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
    ) -> None:
        self._anatomy = anatomy
        self._cache = cache
        self._tokenizer = tokenizer
        self._known: BaseModel | None = None
        self._model: Any = anatomy.model  # transformers' own types lose generate's
        freeze(anatomy.model)
        # So that one that is merely dropped lets go of its base model too.
        self._thaw = weakref.finalize(self, thaw, anatomy.model)
        self._watch = Watch(anatomy.model)

    @property
    def model(self) -> "PreTrainedModel":
        """The base model."""
        return self._anatomy.model

    @property
    def config(self) -> "PretrainedConfig":
        """The base model's configuration."""
        return self._anatomy.model.config

    @property
    def generation_config(self) -> "GenerationConfig":
        """The base model's defaults for ``generate``."""
        return self._anatomy.model.generation_config

    @property
    def device(self) -> torch.device:
        """Where the base model is."""
        return self._anatomy.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the base model's embedding, and so of the prompt."""
        return self._anatomy.dtype

    @property
    def attached(self) -> bool:
        """Whether the prompt is attached still."""
        return self._thaw.alive

    @property
    def base(self) -> "BaseModel":
        """The base model at hand, by its weights, as they were when they were first asked for.

        Raises:
            BaseModelError: They cannot be fingerprinted.
        """
        # Read once: every call proves that they did not change.
        if self._known is None:
            self._known = from_module(self._anatomy.model, cache=self._cache)
        return self._known

    @property
    def anatomy(self) -> Anatomy:
        """What was seen of the base model."""
        return self._anatomy

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The base model's tokenizer: what ``attach`` was given, else the one in the model's directory.

        Raises:
            AttachError: There is none.
        """
        if self._tokenizer is None:
            self._tokenizer = find_tokenizer(self._anatomy.model)
        return self._tokenizer

    def detach(self) -> None:
        """Let go of the base model, which is as it was before. Doing it again changes nothing."""
        self._thaw()

    def eval(self) -> Self:
        """Return itself: the base model is in evaluation mode as long as a prompt is attached."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Refuse to be trained.

        Raises:
            AttachError: ``mode`` is True.
        """
        if mode:
            raise AttachError(
                "an attached base model is frozen, and its prompt is for use",
                "train prompts with promptreg tune, or detach the prompt to train the base model",
            )
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # Both copy and pickle come here. A copy would hold on to a base model that nobody froze for it.
        raise AttachError(
            "an attached prompt cannot be copied or pickled",
            "attach the prompt again, in the other process if there is one",
        )

    def _check(self) -> None:
        """Check that the base model is attached still, frozen, and what it was.

        Raises:
            AttachError: It is not.
        """
        if not self.attached:
            raise AttachError("the prompts were detached", "attach them again")
        self._watch.check()
