"""The README's command reference, written from the commands themselves (``make docs``)."""

from collections.abc import Iterator

import click

from promptreg_cli.main import main

__all__ = ["markdown"]


def markdown() -> str:
    """Return the reference: the help of every command, as the command prints it."""
    parts = []
    for path, command in sorted(_commands("promptreg", main)):
        settings = main.context_settings | {"terminal_width": 100}
        context = click.Context(command, info_name=path, **settings)
        parts.append(f"### `{path}`\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def _commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _commands(f"{path} {name}", child)
