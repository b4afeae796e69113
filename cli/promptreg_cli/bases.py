"""``promptreg base``: the frozen models that prompts are trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from promptreg_cli import at_hand, output
from promptreg_cli.main import Settings, pass_settings
from promptreg_cli.parameters import BASE

if TYPE_CHECKING:
    from promptreg.bases import BaseModel

__all__ = ["COMMANDS", "base"]

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def base() -> None:
    """Register and show base models.

    \b
    Example:
      promptreg base add ./gemma-3-270m --name gemma-3-270m
    """


@base.command()
@click.argument("directory", type=_DIRECTORY)
@click.option("--name", help="What to call it; the directory's name unless given.")
@output.json_option
@pass_settings
def add(settings: Settings, directory: Path, name: str | None, as_json_lines: bool) -> None:
    """Register the base model in DIRECTORY, by its weights.

    \b
    Example:
      promptreg base add ./gemma-3-270m --name gemma-3-270m
    """
    from promptreg.names import check_base_name

    chosen = check_base_name(name or directory.resolve().name)
    with settings.registry() as registry:
        added = registry.add_base(at_hand.fingerprint(directory, name=chosen))
    _print(added, as_json_lines=as_json_lines)


@base.command("list")
@output.json_option
@pass_settings
def list_bases(settings: Settings, as_json_lines: bool) -> None:
    """List the registered base models.

    \b
    Example:
      promptreg base list
    """
    with settings.registry() as registry:
        bases = registry.bases()
    if as_json_lines:
        for one in bases:
            output.as_json(_fields(one))
    elif bases:
        headers = ("NAME", "FINGERPRINT", "ARCHITECTURE", "PARAMETERS", "WIDTH", "DTYPE")
        rows = [
            (
                one.name or "-",
                f"{one.fingerprint.short}…",
                one.architecture,
                f"{one.parameters:,}",
                str(one.token_dim),
                one.dtype,
            )
            for one in bases
        ]
        output.table(headers, rows, spare=("DTYPE", "WIDTH", "PARAMETERS", "ARCHITECTURE"))
    else:
        output.note("no base model is registered yet: 'promptreg base add DIRECTORY'")


@base.command()
@click.argument("name", type=BASE)
@output.json_option
@pass_settings
def show(settings: Settings, name: str, as_json_lines: bool) -> None:
    """Show the registered base model of that NAME or fingerprint.

    \b
    Example:
      promptreg base show gemma-3-270m
    """
    with settings.registry() as registry:
        found = registry.base(at_hand.registered(name) or name)
    _print(found, as_json_lines=as_json_lines)


@base.command()
@click.argument("directory", type=_DIRECTORY)
@click.option(
    "--no-cache", is_flag=True, help="Read every weight, even if the files look unchanged."
)
@output.json_option
@pass_settings
def fingerprint(
    settings: Settings,  # noqa: ARG001
    directory: Path,
    no_cache: bool,
    as_json_lines: bool,
) -> None:
    """Compute the fingerprint of the base model in DIRECTORY; nothing is registered.

    \b
    Example:
      promptreg base fingerprint ./gemma-3-270m
    """
    found = at_hand.fingerprint(directory, cache=not no_cache)
    _print(found, as_json_lines=as_json_lines)


def _print(one: "BaseModel", *, as_json_lines: bool) -> None:
    fields = _fields(one)
    if as_json_lines:
        output.as_json(fields)
        return
    shown = {key: value for key, value in fields.items() if value is not None}
    width = max(map(len, shown))
    for key, value in shown.items():
        text = f"{value:,}" if isinstance(value, int) and key == "parameters" else str(value)
        click.echo(f"{click.style(key.ljust(width), bold=True)}  {text}")


def _fields(one: "BaseModel") -> dict[str, Any]:
    return {
        "name": one.name,
        "fingerprint": str(one.fingerprint),
        "embedding": one.embedding,
        "body": one.body,
        "head": one.head,
        "architecture": one.architecture,
        "model_type": one.model_type,
        "token_dim": one.token_dim,
        "vocab_size": one.vocab_size,
        "num_layers": one.num_layers,
        "parameters": one.parameters,
        "dtype": one.dtype,
        "source": one.source,
        "revision": one.revision,
        "tokenizer": None if one.tokenizer is None else str(one.tokenizer),
    }


COMMANDS = (base,)
