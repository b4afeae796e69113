"""``promptreg upgrade``, ``completion`` and ``demo``."""

from pathlib import Path

import click

from promptreg_cli.main import Settings, pass_settings

__all__ = ["COMMANDS", "completion", "demo", "upgrade"]


@click.command()
@pass_settings
def upgrade(settings: Settings) -> None:
    """Bring the database's schema to this release's. Doing it again changes nothing.

    \b
    Example:
      PROMPTREG_DATABASE_URL=postgresql://db/promptreg promptreg upgrade
    """
    from promptreg.registry import Registry

    before, after = Registry.upgrade(settings.database_url)
    if before == after:
        click.echo(f"the database is at schema {after} already")
    else:
        click.echo(f"upgraded the database from {before or 'nothing'} to schema {after}")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, references and base models in SHELL.

    \b
    Example:
      promptreg completion bash >> ~/.bashrc
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"there is no completion for {shell}")
    if shell == "bash":
        # Or bash would take sst2@prod and sha256:... apart before the script sees them.
        click.echo("COMP_WORDBREAKS=${COMP_WORDBREAKS//[@:]/}")
    click.echo(found(ctx.find_root().command, {}, "promptreg", "_PROMPTREG_COMPLETE").source())


@click.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to keep what the demo makes; a fresh temporary folder unless given.",
)
def demo(directory: Path | None) -> None:
    """Show the main job on a small base model that comes with promptreg.

    Two prompts are pushed, listed, pulled, verified and attached to the base model that they were trained
    on; then one meets a base model that it was not trained on, and is refused.

    \b
    Example:
      promptreg demo
    """
    from promptreg_cli.demo.run import run

    run(directory)


COMMANDS = (upgrade, completion, demo)
