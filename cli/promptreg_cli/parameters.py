"""Arguments that several commands take, with their completion in the shell."""

import json
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptreg.prompts import Scalar

__all__ = ["BASE", "REFERENCE", "TASK", "KeyValue", "pairs"]


class KeyValue(click.ParamType["tuple[str, Scalar]"]):
    """``KEY=VALUE``: a number or true/false where it reads as one, else text."""

    name = "K=V"

    def __init__(self, *, numbers_only: bool = False) -> None:
        self.numbers_only = numbers_only

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "tuple[str, Scalar]":
        """Split and read ``value``."""
        key, equals, text = str(value).partition("=")
        if not equals or not key.strip():
            self.fail(f"{value!r} does not read KEY=VALUE", param, ctx)
        read = _scalar(text)
        if self.numbers_only and (isinstance(read, str | bool)):
            self.fail(f"the metric {key!r} is a number, not {text!r}", param, ctx)
        return key.strip(), read


class _Completed(click.ParamType[str]):
    """Text that the shell completes with names from the registry."""

    def __init__(self, name: str) -> None:
        self.name = name

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Return the registered names that begin with ``incomplete``."""
        from promptreg.errors import PromptregError
        from promptreg.registry import Registry

        root = ctx.find_root().params
        try:
            with Registry.open(root.get("database_url"), root.get("objects_url")) as registry:
                names = _names(registry, self.name, incomplete)
        except PromptregError:  # a shell that waits for completions has no use for an error
            names = []
        found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        if self.name == "BASE" and not found:  # a base model is a directory just as well
            found.append(CompletionItem(incomplete, type="dir"))
        return found


REFERENCE = _Completed("REF")
TASK = _Completed("TASK")
BASE = _Completed("BASE")


def pairs(given: "Sequence[tuple[str, Scalar]]", option: str) -> "dict[str, Scalar]":
    """Return ``given`` as a mapping; the same key twice is a usage error."""
    result: dict[str, Scalar] = {}
    for key, value in given:
        if key in result:
            raise click.UsageError(f"{option} {key} is given twice")
        result[key] = value
    return result


def _names(registry: Any, kind: str, incomplete: str) -> list[str]:
    if kind == "BASE":
        return [base.name for base in registry.bases() if base.name]
    versions = registry.list(limit=500).versions
    tasks = sorted({version.task for version in versions})
    task, at, _ = incomplete.partition("@")
    if kind == "TASK" or not at:
        return tasks
    mine = [version for version in versions if version.task == task]
    selectors = [str(v.version) for v in mine] + sorted({a for v in mine for a in v.aliases})
    return [f"{task}@{selector}" for selector in selectors]


def _scalar(text: str) -> "Scalar":
    try:
        read = json.loads(text)
    except ValueError:
        return text
    return read if isinstance(read, bool | int | float) else text
