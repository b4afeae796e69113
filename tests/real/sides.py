"""The machines of the main job, as far as promptreg can tell: they share a registry, and no cache."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

__all__ = ["Side"]

_TESTS = Path(__file__).parents[1]
_OURS = ("PROMPTREG_", "AWS_", "PG")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A machine that uses the registry.

    Attributes:
        registry: The environment that says where the registry is, and who may use it.
        cache: Where it keeps what it fetched.
    """

    registry: Mapping[str, str]
    cache: Path

    def elsewhere(self, cache: Path) -> Self:
        """Return a machine that uses the same registry and has fetched nothing yet."""
        return type(self)(registry=self.registry, cache=cache)

    def promptreg(self, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command, which must exit with ``code``."""
        return self._run("promptreg_cli", words, code)

    def json(self, *words: object) -> list[dict[str, Any]]:
        """Return the objects that the command prints with ``--json``."""
        lines = self.promptreg(*words, "--json").stdout.splitlines()
        return [json.loads(line) for line in lines]

    def answer(self, *words: object) -> dict[str, Any]:
        """Return what ``real.loading_side`` says."""
        answer: dict[str, Any] = json.loads(self._run("real.loading_side", words, 0).stdout)
        return answer

    def _run(
        self, module: str, words: tuple[object, ...], code: int
    ) -> subprocess.CompletedProcess[str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
        places = {"PROMPTREG_CACHE_DIR": str(self.cache), "PYTHONPATH": str(_TESTS)}
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, words)],
            env={**inherited, **places, **self.registry},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{done.args} exited {done.returncode}: {done.stderr}"
        return done
