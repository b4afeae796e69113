import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from promptreg_cli.main import main

README = Path(__file__).parents[2] / "README.md"


def commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            assert child.name == name
            yield from commands(f"{path} {name}".strip(), child)


ALL = dict(commands("", main))


@pytest.mark.parametrize("path", ALL)
def test_every_command_has_help_with_an_example_and_needs_no_settings(path: str) -> None:
    result = CliRunner().invoke(main, [*path.split(), "--help"])
    assert result.exit_code == 0
    assert ALL[path].help
    assert "Example:" in result.output or path == ""


@pytest.mark.parametrize("path", ALL)
def test_every_command_is_in_the_readme(path: str) -> None:
    heading = f"### `promptreg {path}".rstrip() + "`"
    assert heading in README.read_text()


@pytest.mark.parametrize("path", ALL)
def test_every_option_says_what_it_does(path: str) -> None:
    silent = [
        option.name
        for option in ALL[path].params
        if isinstance(option, click.Option) and not option.help
    ]
    assert silent == []


def test_every_module_s_commands_can_be_run() -> None:
    import promptreg_cli

    own = {
        command.name
        for info in pkgutil.iter_modules(promptreg_cli.__path__)
        if not info.name.startswith("__")
        for command in getattr(import_module(f"promptreg_cli.{info.name}"), "COMMANDS", ())
    }
    assert own == {path for path in ALL if path and " " not in path}


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["pusk"]).exit_code == 2


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "promptreg_cli", "--version"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("promptreg, version ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_PROMPTREG_COMPLETE" in result.output


def test_completion_knows_the_commands() -> None:
    env = {
        **os.environ,
        "_PROMPTREG_COMPLETE": "bash_complete",
        "COMP_WORDS": "promptreg pu",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "promptreg_cli"], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["plain,pull", "plain,push"]
