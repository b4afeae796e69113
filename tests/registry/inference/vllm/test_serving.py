"""``promptreg serve-vllm``, as far as it needs no vLLM."""

import socket
from pathlib import Path

from click.testing import CliRunner, Result

from promptreg.registry import Registry
from promptreg_cli.demo import base_directory
from promptreg_cli.main import Settings
from promptreg_cli.serving import serve_vllm


def run(*words: str, home: Path | None = None) -> Result:
    places = (None, None) if home is None else (str(home / "registry.db"), str(home / "objects"))
    settings = Settings(database_url=places[0], objects_url=places[1])
    arguments = ["--base", str(base_directory()), *words]
    return CliRunner().invoke(serve_vllm, arguments, obj=settings)


def test_arguments_for_a_server_that_runs_already_are_refused() -> None:
    result = run("--prompt", "a", "--upstream", "http://127.0.0.1:1", "--", "--max-model-len", "9")
    assert result.exit_code == 2
    assert "not for --upstream" in result.output


def test_a_server_without_prompts_is_refused() -> None:
    result = run()
    assert result.exit_code == 2
    assert "--prompt" in result.output


def test_a_port_that_is_taken_is_said_to_be() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("--prompt", "a", "--port", port)
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in result.output


def test_an_unknown_prompt_is_told_before_anything_starts(tmp_path: Path) -> None:
    from promptreg.database import upgrade

    upgrade(str(tmp_path / "registry.db"))
    with Registry.open(str(tmp_path / "registry.db"), str(tmp_path / "objects")):
        result = run("--prompt", "spam@prod", "--port", "0", home=tmp_path)
    assert result.exit_code == 1
    assert "no task is named 'spam'" in str(result.exception)
