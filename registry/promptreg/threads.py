"""Threads: steps that wait for a store side by side, or while the caller goes on."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["Threads"]

_THREADS = 4
_A = TypeVar("_A")
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Threads:
    """A few threads, started when they are first needed.

    Threads do not survive a fork: a forked child starts its own, and what its parent left for later is not its.
    """

    def __init__(self) -> None:
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self._later: deque[Future[None]] = deque()

    def submit(
        self, step: Callable[_P, _R], *arguments: _P.args, **named: _P.kwargs
    ) -> "Future[_R]":
        """Begin ``step`` on a thread; its result can be waited for. No step waits for another."""
        return self._executor.submit(step, *arguments, **named)

    def at_once(self, step: Callable[[_A], _R], things: Sequence[_A]) -> Sequence[_R]:
        """Do ``step`` for each thing side by side: each waits for a round trip to the store."""
        others = [self.submit(step, thing) for thing in things[1:]]
        try:
            first = step(things[0])
        finally:
            for other in others:
                other.exception()  # none is still at work when this returns or raises
        return [first, *(other.result() for other in others)]

    def later(self, step: Callable[_P, None], *arguments: _P.args, **named: _P.kwargs) -> None:
        """Do ``step`` while the caller goes on; ``flush`` waits for it."""
        while self._later and self._later[0].done():
            self._later.popleft()
        self._later.append(self.submit(step, *arguments, **named))

    def flush(self) -> None:
        """Return when all that was left for later is done."""
        if not self._own:
            return
        while self._later:
            self._later.popleft().result()

    def close(self) -> None:
        """Flush, then end the threads."""
        self.flush()
        if self._own and self._pool is not None:
            self._pool[1].shutdown()

    @property
    def _own(self) -> bool:
        """Whether this process has started threads itself."""
        return self._pool is not None and self._pool[0] == os.getpid()

    @property
    def _executor(self) -> "ThreadPoolExecutor":
        from concurrent.futures import ThreadPoolExecutor

        if self._pool is None or self._pool[0] != os.getpid():
            self._later.clear()
            executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="promptreg")
            self._pool = os.getpid(), executor
        return self._pool[1]
