"""What a prompted model holds: its prompts by name, and their keys and values."""

import threading
from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field

from promptreg.errors import ConflictError
from promptreg.models.anatomy import Anatomy
from promptreg.models.mixing import MixedRows, mix
from promptreg.models.precomputing import KeyTables
from promptreg.models.reports import AttachReport
from promptreg.models.virtual import VirtualTokens
from promptreg.prompts import PromptVersion, TaskType, Vote
from promptreg.row_names import choose_rows, unknown_prompt

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


class AttachedPrompts(Mapping[str, AttachedPrompt]):
    """The prompts of one prompted model, by name.

    Any thread may add and remove them: a batch that runs holds on to those that it began with.

    Attributes:
        tables: Their keys and values.
    """

    def __init__(self, anatomy: Anatomy, key_value_bytes: int) -> None:
        self.tables = KeyTables(anatomy, key_value_bytes)
        # Never written to, only replaced by another: a batch reads one state of it, without a copy or a lock.
        self._prompts: Mapping[str, AttachedPrompt] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> AttachedPrompt:
        return self._prompts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._prompts)

    def values(self) -> ValuesView[AttachedPrompt]:
        """Return the prompts as they are now, whoever comes and goes."""
        return self._prompts.values()

    def items(self) -> ItemsView[str, AttachedPrompt]:
        """Return names and prompts as they are now."""
        return self._prompts.items()

    def __len__(self) -> int:
        return len(self._prompts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self)})"

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
        if not replace and self._is_there(prompt):
            return
        if warm:
            self.tables.warm([tokens for tokens in prompt.tokens if self.tables.serves(tokens)])
        with self._lock:
            taken = not replace and prompt.name in self._prompts
            before = prompt if taken else self._prompts.get(prompt.name)
            if not taken:
                # One assignment: a batch that begins now gets the old prompt or the new one, never none.
                self._prompts = {**self._prompts, prompt.name: prompt}
        if before is not None:
            self._drop(before)
        if taken:
            raise _taken(prompt.name)

    def pop(self, name: str) -> AttachedPrompt:
        """Let go of the prompt ``name``.

        Raises:
            AttachError: There is none.
        """
        with self._lock:
            prompt = self._prompts.get(name)
            self._prompts = {key: each for key, each in self._prompts.items() if key != name}
        if prompt is None:
            raise unknown_prompt(name, self)
        self._drop(prompt)
        return prompt

    def clear(self) -> None:
        """Let go of all prompts."""
        with self._lock:
            self._prompts = {}
        self.tables.clear()

    def chosen(self, names: Sequence[str | None] | None, count: int) -> list[AttachedPrompt | None]:
        """Return the prompt of each of ``count`` rows.

        Args:
            names: [B] Their names, None for the bare base model; or None if there is only one prompt to mean.
            count: B.

        Raises:
            AttachError: There are more names or fewer, one is unknown, or nothing tells which prompt is meant.
        """
        return choose_rows(names, count, self._prompts)

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
        tables = self.tables.of(wanted, kept=self._holds) if wanted else {}
        return mix(owners, tables, names)

    def _is_there(self, prompt: AttachedPrompt) -> bool:
        """Return whether this very version is held.

        Raises:
            ConflictError: Another one has its name.
        """
        held = self._prompts.get(prompt.name)
        if held is None:
            return False
        if prompt.version is None or held.version is None or held.version.ref != prompt.version.ref:
            raise _taken(prompt.name)
        return True

    def _holds(self, tokens: VirtualTokens) -> bool:
        return any(tokens in prompt.tokens for prompt in self._prompts.values())

    def _drop(self, prompt: AttachedPrompt) -> None:
        for tokens in prompt.tokens:
            self.tables.drop(tokens)


def _taken(name: str) -> ConflictError:
    return ConflictError(
        f"a prompt named {name} is attached already",
        "another one was added under its name",
        "remove it first, or add this one with name= or replace=True",
    )
