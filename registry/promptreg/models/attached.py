"""What a prompted model holds: its prompts by name, and their keys and values."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from promptreg.models.anatomy import Anatomy
from promptreg.models.mixing import MixedRows, mix
from promptreg.models.precomputing import KeyTables
from promptreg.models.reports import AttachReport
from promptreg.models.virtual import VirtualTokens
from promptreg.prompts import PromptVersion, TaskType, Vote
from promptreg.row_names import HeldPrompts

__all__ = ["AttachedPrompt", "AttachedPrompts"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttachedPrompt:
    """A prompt that a prompted model holds.

    Attributes:
        name: What a row names it by.
        version: What is registered about it; None if it is not.
        task_type: What the base model does with the prompted input, if the prompt says it.
        template: The text around the input, with ``{text}`` where it goes; None for the bare input.
        labels: The label words of a classification task.
        vote: How the members of an ensemble agree; None for a single prompt.
        report: What was checked when it was attached.
        tokens: Its virtual tokens; those of each member, for an ensemble.
    """

    name: str
    version: PromptVersion | None = None
    task_type: TaskType | None = None
    template: str | None = None
    labels: tuple[str, ...] = ()
    vote: Vote | None = None
    report: AttachReport
    tokens: tuple[VirtualTokens, ...] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """How many bytes its tensors take, without keys and values that were computed from them."""
        return sum(tokens.nbytes for tokens in self.tokens)


class AttachedPrompts(HeldPrompts[AttachedPrompt]):
    """The prompts of one prompted model, by name, and their keys and values.

    Attributes:
        tables: Their keys and values.
    """

    def __init__(self, anatomy: Anatomy, key_value_bytes: int) -> None:
        super().__init__()
        self.tables = KeyTables(anatomy, key_value_bytes)

    def put(self, prompt: AttachedPrompt, *, replace: bool = False, warm: bool = False) -> None:
        """Hold ``prompt``. The same version again changes nothing.

        Args:
            prompt: The prompt.
            replace: Whether it takes the place of one of its name.
            warm: Whether to compute its keys and values first.

        Raises:
            ConflictError: There is another of its name, and it is not to be replaced.
            AttachError: Its keys and values were computed, and are not finite.
        """
        if not replace and self.holds(prompt):
            return
        if warm:
            self.tables.warm([tokens for tokens in prompt.tokens if self.tables.serves(tokens)])
        try:
            before = self.hold(prompt, replace=replace)
        finally:
            # Another thread may have taken its name meanwhile.
            if self.get(prompt.name) is not prompt:
                self._drop(prompt)
        if before is not None and before is not prompt:
            self._drop(before)

    def pop(self, name: str) -> AttachedPrompt:
        """Let go of the prompt ``name``.

        Raises:
            AttachError: There is none.
        """
        prompt = super().pop(name)
        self._drop(prompt)
        return prompt

    def clear(self) -> None:
        """Let go of all prompts."""
        super().clear()
        self.tables.clear()

    def rows(
        self,
        owners: Sequence[VirtualTokens | None],
        names: Sequence[str | None] = (),
        *,
        as_embeddings: bool = False,
    ) -> MixedRows:
        """Return the virtual tokens of a batch.

        Args:
            owners: [B] Each row's; None for the bare base model.
            names: [B] What the caller named them by, if it did.
            as_embeddings: Whether to use as embeddings all that can be used so.
        """
        wanted = {
            owner
            for owner in owners
            if owner is not None
            and (owner.embeddings is None or not as_embeddings)
            and self.tables.serves(owner)
        }
        tables = self.tables.of(wanted, kept=self._uses) if wanted else {}
        return mix(owners, tables, names)

    def _uses(self, tokens: VirtualTokens) -> bool:
        return any(tokens in prompt.tokens for prompt in self._prompts.values())

    def _drop(self, prompt: AttachedPrompt) -> None:
        for tokens in prompt.tokens:
            self.tables.drop(tokens)
