"""``promptreg serve-vllm``: prompts as models of an OpenAI-compatible server."""

import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from promptreg.errors import MissingDependencyError
from promptreg_cli import at_hand, output
from promptreg_cli.main import Settings, pass_settings
from promptreg_cli.parameters import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptreg.inference.vllm import AttachedPrompts, ServedBase

__all__ = ["COMMANDS", "serve_vllm"]

_LOOKED_UP_EVERY = 5.0  # seconds
_TO_END = 10  # seconds that running answers get


@click.command("serve-vllm")
@click.option(
    "--base",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The directory of the base model.",
)
@click.option(
    "--prompt",
    "references",
    metavar="REF",
    multiple=True,
    required=True,
    type=REFERENCE,
    help="A prompt to serve, under this name. Repeatable.",
)
@click.option(
    "--upstream", metavar="URL", help="A vLLM server that runs; without it, one is started."
)
@click.option("--upstream-model", metavar="NAME", help="What that server calls the base model.")
@click.option(
    "--upstream-key",
    metavar="KEY",
    envvar="VLLM_API_KEY",
    show_envvar=True,
    help="What it wants to hear at the start; later, what your clients send goes on to it.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", default=8080, show_default=True, help="The port to listen on; 0 for a free one."
)
@click.option("--name", help="What to call the bare base model; its directory's name by default.")
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    help="The dtype that vLLM runs the base model in; auto is the stored one.",
)
@click.argument("arguments", metavar="[-- VLLM_ARGUMENT...]", nargs=-1, type=click.UNPROCESSED)
@pass_settings
def serve_vllm(
    settings: Settings,
    base: Path,
    references: tuple[str, ...],
    upstream: str | None,
    upstream_model: str | None,
    upstream_key: str | None,
    host: str,
    port: int,
    name: str | None,
    dtype: str,
    arguments: tuple[str, ...],
) -> None:
    """Serve prompts on vLLM behind OpenAI's API: the name of the model is the name of a prompt.

    The base model is fingerprinted, and every prompt proved to fit it, before anything is served. An alias that
    moves is followed while the server runs. What stands after -- is for the vLLM server that is started.

    \b
    Example:
      promptreg serve-vllm --base ./gemma-3-270m --prompt spam@prod -- --max-model-len 2048
    """
    if upstream is not None and arguments:
        raise click.UsageError(
            "what stands after -- is for a server that is started, not for --upstream"
        )
    uvicorn = _import_uvicorn()
    from promptreg.inference.following import Follower
    from promptreg.inference.vllm import AttachedPrompts, ServedBase, check_upstream, make_app

    at_hand.quiet_transformers()
    with ExitStack() as opened:
        # Otherwise a SIGTERM would end this process alone, and leave the vLLM server behind.
        opened.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _end))
        listening = opened.enter_context(_listen(host, port))  # first, since vLLM takes a minute
        registry = opened.enter_context(settings.registry())
        with output.progress(f"fingerprinting {base.name}") as advance:
            served = ServedBase.open(base, dtype=dtype, progress=advance)
        attached = AttachedPrompts(served, ensembles=False)
        follower = opened.enter_context(Follower(attached, registry, references))
        follower.attach()
        if upstream is None:
            upstream = _start(served, arguments, opened)
        found = check_upstream(upstream, served, model=upstream_model, api_key=upstream_key)
        app = make_app(found, attached, name=name)
        follower.start(_LOOKED_UP_EVERY)
        _announce(attached, name or base.resolve().name, _address(listening), found.url)
        settled = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_TO_END)
        uvicorn.Server(settled).run(sockets=[listening])


def _import_uvicorn() -> Any:
    try:
        import uvicorn
    except ImportError as error:
        raise MissingDependencyError("uvicorn", "serve", "serving prompts on vLLM") from error
    return uvicorn


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise click.ClickException(
            f"cannot listen on {host} port {port} ({reason}); name others with --host and --port"
        ) from error


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _end(_number: int, _frame: object) -> None:
    sys.exit(128 + signal.SIGTERM)


def _start(base: "ServedBase", arguments: "Sequence[str]", opened: ExitStack) -> str:
    """Start a vLLM server that ends when ``opened`` does, and return where it is once it is ready."""
    from promptreg.inference.vllm import ServerProcess

    server = opened.enter_context(ServerProcess(base, arguments))
    output.note(f"starting vLLM on {base.directory}, which says what it does in {server.log}")
    with output.working("waiting for vLLM"):
        server.wait()
    return server.url


def _announce(attached: "AttachedPrompts", name: str, url: str, upstream: str) -> None:
    """Say what is served, and how to try it."""
    for prompt in attached.values():
        version = prompt.version.ref if prompt.version is not None else prompt.name
        is_it = "" if version == prompt.name else f"  ({version})"
        click.echo(f"{prompt.name}{is_it}")
    click.echo(f"{name}  (the bare base model)")
    example = next(iter(attached))
    output.note(f"served at {url}/v1, by the vLLM server at {upstream}. Try:")
    output.note(
        f"  curl {url}/v1/completions -H 'content-type: application/json' "
        f"""-d '{{"model": "{example}", "prompt": "Hello", "max_tokens": 8}}'"""
    )


COMMANDS = (serve_vllm,)
