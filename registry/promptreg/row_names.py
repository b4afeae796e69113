"""The prompts of a batch's rows, by name: which held prompt each row means. Every engine reads them so."""

import threading
from collections.abc import Collection, ItemsView, Iterator, Mapping, Sequence, ValuesView
from typing import Protocol, TypeVar

from promptreg.errors import AttachError, ConflictError
from promptreg.prompts import PromptVersion

__all__ = ["Held", "HeldPrompts", "choose_rows", "find_prompt", "unknown_prompt"]

_SHOWN = 8


class Held(Protocol):
    """A prompt that an engine holds under a name."""

    @property
    def name(self) -> str:
        """What a row names it by."""

    @property
    def version(self) -> PromptVersion | None:
        """What is registered about it; None if it is not."""


_Held = TypeVar("_Held", bound=Held)


def choose_rows(
    names: Sequence[str | None] | None, count: int, held: Mapping[str, _Held]
) -> list[_Held | None]:
    """Return the prompt of each of ``count`` rows.

    Args:
        names: [B] Their names, None for the bare base model; or None if there is only one prompt to mean.
        count: B.
        held: The prompts at hand, by name.

    Raises:
        AttachError: There are more names or fewer, one is unknown, or nothing tells which prompt is meant.
    """
    if names is None:
        if len(held) != 1:
            raise _nothing_said(held)
        return [*held.values()] * count
    if isinstance(names, str):
        raise AttachError(
            f"prompts is the text {names!r}, and a batch takes a list of names, one a row",
            f"pass prompts=[{names!r}] * {count}",
        )
    names = list(names)
    if len(names) != count:
        raise AttachError(
            f"prompts has {len(names)} entries, and the batch {count} rows",
            "pass one entry a row, None for the bare base model",
        )
    for name in names:
        if name is not None and not isinstance(name, str):
            raise unknown_prompt(name, held)
    found = {name: find_prompt(name, held) for name in dict.fromkeys(names) if name is not None}
    return [None if name is None else found[name] for name in names]


class HeldPrompts(Mapping[str, _Held]):
    """The prompts that an engine holds, by name.

    Any thread may add and remove them: a batch that runs holds on to those that it began with.
    """

    def __init__(self) -> None:
        # Never written to, only replaced by another: a batch reads one state of it, without a copy or a lock.
        self._prompts: Mapping[str, _Held] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> _Held:
        return self._prompts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._prompts)

    def values(self) -> ValuesView[_Held]:
        """Return the prompts as they are now, whoever comes and goes."""
        return self._prompts.values()

    def items(self) -> ItemsView[str, _Held]:
        """Return names and prompts as they are now."""
        return self._prompts.items()

    def __len__(self) -> int:
        return len(self._prompts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self)})"

    def holds(self, prompt: _Held) -> bool:
        """Return whether this very version is held under its name.

        Raises:
            ConflictError: Another one has its name.
        """
        held = self._prompts.get(prompt.name)
        if held is None:
            return False
        if prompt.version is None or held.version is None or held.version.ref != prompt.version.ref:
            raise ConflictError(
                f"a prompt named {prompt.name} is attached already",
                "another one was added under its name",
                "remove it first, or add this one with name= or replace=True",
            )
        return True

    def hold(self, prompt: _Held, *, replace: bool) -> _Held | None:
        """Hold ``prompt``, unless this very version is held already; return the one whose place it took.

        Args:
            prompt: The prompt.
            replace: Whether it takes the place of one of its name: at once, so that a batch that begins now
                gets the old prompt or the new one, never none.

        Raises:
            ConflictError: There is another of its name, and it is not to be replaced.
        """
        with self._lock:
            before = self._prompts.get(prompt.name)
            if not replace and self.holds(prompt):
                return None
            self._prompts = {**self._prompts, prompt.name: prompt}
            return before

    def pop(self, name: str) -> _Held:
        """Let go of the prompt ``name``.

        Raises:
            AttachError: There is none.
        """
        with self._lock:
            if name not in self._prompts:
                raise unknown_prompt(name, self._prompts)
            prompt = self._prompts[name]
            self._prompts = {key: each for key, each in self._prompts.items() if key != name}
            return prompt

    def clear(self) -> None:
        """Let go of all prompts."""
        with self._lock:
            self._prompts = {}

    def chosen(self, names: Sequence[str | None] | None, count: int) -> list[_Held | None]:
        """Return the prompt of each of ``count`` rows, as ``choose_rows`` does."""
        return choose_rows(names, count, self._prompts)


def find_prompt(name: str, held: Mapping[str, _Held]) -> _Held:
    """Return the prompt that ``name`` means: the one of that name, else the only one of that task or alias.

    Raises:
        AttachError: There is none, or there are several.
    """
    if name in held:
        return held[name]
    matching = [
        prompt
        for prompt in held.values()
        if prompt.version is not None and name in _references(prompt.version)
    ]
    if len(matching) == 1:
        return matching[0]
    if matching:
        listed = ", ".join(sorted(prompt.name for prompt in matching))
        raise AttachError(f"{name!r} may mean {listed}", "name one of them")
    raise unknown_prompt(name, held)


def unknown_prompt(name: object, known: Collection[str]) -> AttachError:
    """Return the error for a name that no attached prompt has."""
    listed = sorted(known)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    attached = f"attached are {', '.join(listed[:_SHOWN])}{more}" if listed else "none is attached"
    return AttachError(
        f"no prompt {name!r} is attached; {attached}",
        "name one of them, None for the bare base model, or add it with add(registry.pull(REF))",
    )


def _references(version: PromptVersion) -> set[str]:
    """Return what people write for ``version``, as far as that was known when it was pulled."""
    aliases = {f"{version.task}@{alias}" for alias in version.aliases}
    return {version.task, version.ref, str(version.digest), *aliases}


def _nothing_said(held: Collection[str]) -> AttachError:
    if not held:
        return AttachError(
            "no prompt is attached", "attach one with add, or pass prompts=[None] * rows"
        )
    return AttachError(
        f"{len(held)} prompts are attached, and nothing says which one each row is for",
        "pass prompts=[…] with a name for each row, None for the bare base model",
    )
