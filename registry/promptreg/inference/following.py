"""Following a registry: an alias that moves is picked up between batches, without stopping."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from promptreg.errors import BaseModelNotFoundError, ConfigurationError, PromptregError
from promptreg.names import Reference

if TYPE_CHECKING:
    from promptreg.bases import BaseModel
    from promptreg.models import PromptedModel
    from promptreg.prompts import PromptVersion, PulledPrompt
    from promptreg.registry import Registry
    from promptreg.row_names import Held

__all__ = ["Follower", "Following", "follow"]

_log = logging.getLogger("promptreg.inference")


class Following(Protocol):
    """What holds prompts under names: a ``PromptedModel``, or an engine."""

    @property
    def base(self) -> "BaseModel":
        """The base model at hand."""

    @property
    def prompts(self) -> Mapping[str, "Held"]:
        """The prompts that it holds."""

    def add(self, prompt: "PulledPrompt", *, name: str, replace: bool) -> Any:
        """Prove that a prompt fits and hold it, in the place of the one of that name."""


class Follower:
    """Keeps prompts at the versions that their references mean now.

    The new version is pulled, verified, proved to fit and warmed (its keys and values computed) first, and then
    swapped in at once: each batch gets the old one or the new one. One that cannot be had, or does not fit,
    never replaces a good one: ``problems`` says why, and the next look tries again.

    As a context manager, it stops at the end. The prompts stay attached.

    Attributes:
        problems: Why a reference is not at the version that it means now, by reference.
    """

    def __init__(
        self,
        holder: Following,
        registry: "Registry",
        references: Sequence[str],
        *,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        self.problems: dict[str, str] = {}
        self._holder = holder
        self._registry = registry
        self._references = list(dict.fromkeys(references))
        self._on_change = on_change
        self._stopped = threading.Event()
        self._looking = threading.Lock()
        self._thread: threading.Thread | None = None
        for reference in self._references:
            Reference.parse(reference)

    def attach(self) -> None:
        """Attach what each reference means now.

        Raises:
            PromptregError: One cannot be had, or does not fit; those before it stay attached.
        """
        # All are pulled before one is attached.
        pulled = [(name, self._pull(self._resolve(name))) for name in self._references]
        for name, prompt in pulled:
            self._holder.add(prompt, name=name, replace=True)

    def renew(self) -> list[str]:
        """Look every reference up once; return what changed, a sentence each."""
        with self._looking:
            said = [change for name in self._references if (change := self._renew(name))]
        for change in said:
            _log.info("%s", change)
            self._tell(change)
        return said

    def _tell(self, change: str) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change(change)
        except Exception:  # the caller's own; other changes are still to be told
            _log.exception("on_change failed")

    def start(self, interval: float) -> None:
        """Look the references up every ``interval`` seconds, in a thread."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, args=(interval,), name="promptreg-follow", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Stop. What a look has begun, it ends."""
        self._stopped.set()
        # Its own thread may close it, from on_change.
        if self._thread not in {None, threading.current_thread()}:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, interval: float) -> None:
        while not self._stopped.wait(interval):
            try:
                self.renew()
            except Exception:  # a bug must not end the thread in silence
                _log.exception("looking for moved aliases failed; trying again")

    def _renew(self, name: str) -> str | None:
        held = self._holder.prompts.get(name)
        if held is None:
            return None  # it was removed
        try:
            version = self._resolve(name)
            if held.version is None or held.version.ref != version.ref:
                self._holder.add(self._pull(version), name=name, replace=True)
        except PromptregError as error:
            self._report(name, str(error))
            return None
        self.problems.pop(name, None)
        if held.version is not None and held.version.ref == version.ref:
            return None
        before = "unregistered" if held.version is None else held.version.ref
        return f"{name} is {version.ref} now, and was {before}"

    def _resolve(self, name: str) -> "PromptVersion":
        """Return what ``name`` means for the base model at hand."""
        try:
            return self._registry.resolve(name, base=str(self._holder.base.fingerprint))
        except BaseModelNotFoundError:
            # Another base model than any registered: a policy may allow it all the same.
            return self._registry.resolve(name)

    def _pull(self, version: "PromptVersion") -> "PulledPrompt":
        return self._registry.pull(version.ref)

    def _report(self, name: str, reason: str) -> None:
        """Say once why ``name`` stays what it is, however often it is looked up."""
        if self.problems.get(name) != reason:
            self.problems[name] = reason
            _log.warning("%s stays as it is: %s", name, reason)


def follow(
    prompted: "PromptedModel",
    registry: "Registry",
    references: Sequence[str],
    *,
    interval: float = 5.0,
    on_change: Callable[[str], None] | None = None,
) -> Follower:
    """Attach prompts under their references, and pick it up when these come to mean others.

    Args:
        prompted: What holds them: each is attached under its reference, such as ``spam@prod``, by which rows
            name it.
        registry: Where to look; it must stay open until the follower is closed.
        references: Tasks or aliases; a version's number is attached as well, and never moves.
        interval: How many seconds to wait between two looks.
        on_change: Called, in the follower's thread, with a sentence about each change.

    Returns:
        The follower, which looks in a thread until it is closed; ``renew`` looks at once.

    Raises:
        ConfigurationError: The interval is not above 0.
        NotFoundError, IncompatibleModelError, …: What a reference means now cannot be had, or does not fit;
            what was attached before is as it was.
    """
    if isinstance(references, str):
        raise ConfigurationError(
            "references", references, "a text is no list of references", f"pass [{references!r}]"
        )
    if not isinstance(interval, int | float) or not 0 < interval <= threading.TIMEOUT_MAX:
        raise ConfigurationError(
            "interval", str(interval), "it is no time to wait", "pass a number of seconds above 0"
        )
    before = dict(prompted.prompts)
    follower = Follower(prompted, registry, references, on_change=on_change)
    try:
        follower.attach()
    except BaseException:
        for name in set(references) & prompted.prompts.keys():
            if name not in before:
                prompted.remove(name)
            elif prompted.prompts[name] is not before[name]:
                prompted.put_back(before[name])
        raise
    follower.start(interval)
    return follower
