"""``promptreg demo``: the main job, typed and run in front of the reader."""

import ast
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from promptreg.errors import PromptregError
from promptreg_cli.demo import base_directory, prompt_directory, record
from promptreg_cli.demo.bases import wrong_base

__all__ = ["run"]

_PUSHED = ("reverse", "shout")
_LOAD = """
import promptreg
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("base")
base = AutoModelForCausalLM.from_pretrained("base")
registry = promptreg.Registry.open()
def complete(model, *texts):
    inputs = tokenizer(list(texts), return_tensors="pt", padding=True)
    for ids in model.generate(**inputs, max_new_tokens=20, do_sample=False):
        print("  ", tokenizer.decode(ids, skip_special_tokens=True))
"""
_ATTACH = """
complete(base, "garden", "stone")
reverse = promptreg.attach(base, registry.pull("demo/reverse@prod"))
print(reverse.report)
complete(reverse, "garden", "stone")
reverse.detach()
both = promptreg.attach(base, registry.pull("demo/reverse@prod"), registry.pull("demo/shout"))
for answer in both.answer(["garden"] * 3, prompts=["demo/reverse", "demo/shout", None]):
    print("  ", answer.prompt, answer.text)
"""
_REFUSE = """
other = AutoModelForCausalLM.from_pretrained("wrong-base")
promptreg.attach(other, registry.pull("demo/shout"))
"""


def run(directory: Path | None = None) -> None:
    """Run the demo in ``directory``, or in a fresh temporary folder that stays for a look around.

    Raises:
        AssertionError: A step did not end as it should: the demo is broken.
    """
    from promptreg_cli.at_hand import quiet_transformers

    quiet_transformers()
    if directory is None:
        directory = Path(tempfile.mkdtemp(prefix="promptreg-demo-"))
    directory = directory.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise click.ClickException(f"{directory} is not empty; name a new or an empty folder")
    except OSError as error:
        raise click.ClickException(f"cannot use {directory}: {error.strerror}") from error
    with _inside(directory):
        _say(f"Everything happens in {directory}: a SQLite database and a folder of objects.")
        shutil.copytree(base_directory(), "base", dirs_exist_ok=True)
        for name in _PUSHED:
            shutil.copytree(prompt_directory(name), name, dirs_exist_ok=True)
        _say(
            "base/ is a small language model that completes lines ('garden -> garden'); reverse/ and\n"
            "shout/ are soft prompts trained on it, its weights frozen, as PEFT writes them."
        )
        _say("Push the two prompts. Each is registered on the fingerprint of its base model.")
        for name in _PUSHED:
            _command(*_push(name))
        _say("See what is registered.")
        _command("list")
        _command("show", "demo/reverse")
        _say("Give a version a name that can move, and pull by it: a PEFT directory again.")
        _command("alias", "demo/reverse@1", "prod")
        _command("pull", "demo/reverse@prod", "pulled")
        _say(
            "Verify: every byte of the prompt, every weight of the base, and the recorded outputs."
        )
        _command("check", "demo/reverse@prod", "--base", "base", "--canary")
        _say(
            "Attach them to the frozen model and generate. The same weights do another task; one batch mixes\n"
            "tasks, a prompt a row."
        )
        names: dict[str, Any] = {}
        _python(_LOAD, names)
        _python(_ATTACH, names)
        if not Path("wrong-base").exists():
            wrong_base(Path("base"), Path("wrong-base"))
        _say(
            "wrong-base/ is the same model with one layer changed. It still completes lines, but with the\n"
            "prompt it would write 'garden -> GARDen', without a word. Here it is refused."
        )
        _command("check", "demo/shout", "--base", "wrong-base", refused=True)
        _python(_REFUSE, names, refused=True)
        names["registry"].close()
        _say(
            f"Done. Look around with: PROMPTREG_DATA_DIR={shlex.quote(str(directory))} promptreg list"
        )


def _push(name: str) -> list[str]:
    known = record(name)
    chosen = {key: known.hyperparameters[key] for key in ("learning_rate", "steps", "seed")}
    facts = [
        *("--metric", f"accuracy={known.metrics['accuracy']:.3f}"),
        *(word for key, value in chosen.items() for word in ("--hyperparameter", f"{key}={value}")),
    ]
    return ["push", name, "--task", f"demo/{name}", "--base", "base", *facts]


def _say(text: str) -> None:
    click.echo("\n" + click.style("\n".join(f"# {line}" for line in text.splitlines()), fg="cyan"))


def _command(*arguments: str, refused: bool = False) -> None:
    """Type the command and run it as it would run in a shell."""
    from promptreg_cli.main import main

    click.echo(click.style("$ ", fg="green") + shlex.join(["promptreg", *arguments]))
    try:
        main(list(arguments), prog_name="promptreg", standalone_mode=True)
    except SystemExit as done:
        if (done.code not in {0, None}) != refused:
            raise AssertionError(f"'promptreg {arguments[0]}' exited {done.code}") from done
        if refused:
            click.echo(click.style(f"(exit {done.code})", dim=True))


def _python(source: str, names: dict[str, Any], *, refused: bool = False) -> None:
    """Type the statements at a prompt and run them."""
    statements = ast.parse(source).body
    lines = source.splitlines()
    for number, statement in enumerate(statements):
        typed = lines[statement.lineno - 1 : statement.end_lineno]
        for index, line in enumerate(typed):
            click.echo(click.style("... " if index else ">>> ", fg="green") + line)
        code = compile(ast.Module([statement], []), "<demo>", "exec")
        last = number == len(statements) - 1
        try:
            exec(code, names)  # noqa: S102  # the demo's own text, above
        except PromptregError as error:
            if not (refused and last):
                raise
            click.echo(f"promptreg.errors.{type(error).__name__}: {error}")
        else:
            if refused and last:
                raise AssertionError("the wrong base model was not refused")


@contextmanager
def _inside(directory: Path) -> Iterator[None]:
    """Work in ``directory``, on a registry of its own whatever the environment says."""
    before, environment = Path.cwd(), dict(os.environ)
    os.environ["PROMPTREG_DATA_DIR"] = str(directory)
    os.environ["PROMPTREG_CACHE_DIR"] = str(directory / "cache")
    for name in ("PROMPTREG_DATABASE_URL", "PROMPTREG_OBJECTS_URL"):
        os.environ.pop(name, None)
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
