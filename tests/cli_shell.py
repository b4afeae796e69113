import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from promptreg_cli.demo import base_directory, prompt_directory
from promptreg_cli.main import main

Run = Callable[..., Result]


@dataclass
class Shell:
    """Runs the command as a shell would, on a registry of its own."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str | Path, code: int = 0) -> Result:
        result = CliRunner().invoke(
            main, [str(word) for word in arguments], env=dict(self.environment)
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: str | Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(*arguments, "--json").stdout.splitlines()]

    def objects(self) -> set[Path]:
        return {path for path in (self.home / "objects").rglob("*") if path.is_file()}


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    home = tmp_path / "home"
    monkeypatch.setenv("PROMPTREG_DATA_DIR", str(home))
    monkeypatch.setenv("PROMPTREG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return Shell(home)


@pytest.fixture
def base() -> Path:
    return base_directory()


@pytest.fixture
def reverse() -> Path:
    return prompt_directory("reverse")


@pytest.fixture
def shout() -> Path:
    return prompt_directory("shout")
