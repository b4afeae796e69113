"""The group of all commands, and the one place that turns known errors into a line."""

from dataclasses import dataclass
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


class _Group(click.Group):
    """Shows promptreg's own errors as one line and exits 1; lets bugs be tracebacks."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PromptregError as error:
            raise click.ClickException(" ".join(str(error).split())) from error


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


def _add_commands() -> None:
    # Below main, since each command's module needs what stands above.
    from promptreg_cli import (
        administration,
        bases,
        ensembles,
        generating,
        prompts,
        pulling,
        pushing,
        serving,
    )

    for module in (
        pushing,
        ensembles,
        pulling,
        prompts,
        bases,
        generating,
        serving,
        administration,
    ):
        for command in module.COMMANDS:
            main.add_command(command)


_add_commands()
