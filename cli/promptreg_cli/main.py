"""The group of all commands, and the one place that turns known errors into a line."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from promptreg.errors import PromptregError

if TYPE_CHECKING:
    from promptreg.registry import Registry

__all__ = ["Settings", "main", "pass_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What holds for every command. Nothing is opened before a command asks for it."""

    database_url: str | None
    objects_url: str | None

    def registry(self) -> "Registry":
        """Open the registry."""
        from promptreg.registry import Registry

        return Registry.open(self.database_url, self.objects_url)


pass_settings = click.make_pass_decorator(Settings)


# Which module has which command: only the one that is run is imported, and so 'list' starts fast.
_MODULES = {
    "alias": "prompts",
    "base": "bases",
    "check": "pulling",
    "completion": "administration",
    "demo": "administration",
    "ensemble": "ensembles",
    "eval": "evaluating",
    "generate": "generating",
    "inspect": "inspecting",
    "list": "prompts",
    "pull": "pulling",
    "push": "pushing",
    "report": "reporting",
    "serve-vllm": "serving",
    "show": "prompts",
    "similar": "similarity",
    "sweep": "tuning",
    "tune": "tuning",
    "upgrade": "administration",
    "yank": "prompts",
}


_LONGEST_ERROR = 2000  # characters: a line of data that is shown may be as long as a file


class _Group(click.Group):
    """Imports each command when it is asked for, and shows promptreg's own errors as one line.

    Then it exits 1; bugs are let be tracebacks.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of all commands."""
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command of that name; None if there is none."""
        if cmd_name not in _MODULES:
            return None
        module = import_module(f"promptreg_cli.{_MODULES[cmd_name]}")
        found: click.Command = next(each for each in module.COMMANDS if each.name == cmd_name)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PromptregError as error:
            from promptreg_cli import output

            line = output.printable(" ".join(str(error).split()))
            if len(line) > _LONGEST_ERROR:
                line = f"{line[: _LONGEST_ERROR // 2]} … {line[-_LONGEST_ERROR // 2 :]}"
            raise click.ClickException(line) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--database",
    "database_url",
    metavar="URL",
    envvar="PROMPTREG_DATABASE_URL",
    show_envvar=True,
    help="The database: a path, sqlite:///PATH or postgresql://HOST/NAME.",
)
@click.option(
    "--objects",
    "objects_url",
    metavar="URL",
    envvar="PROMPTREG_OBJECTS_URL",
    show_envvar=True,
    help="The object store: a path or s3://BUCKET/PREFIX?endpoint=URL.",
)
@click.version_option(package_name="soft-promptreg", prog_name="promptreg")
@click.pass_context
def main(ctx: click.Context, database_url: str | None, objects_url: str | None) -> None:
    """Register, find and fetch trained soft prompts, and prove which base model each one fits.

    Without a URL, both live in your own data directory.
    """
    ctx.obj = Settings(database_url=database_url, objects_url=objects_url)
