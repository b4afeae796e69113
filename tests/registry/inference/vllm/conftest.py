"""The demo's base model and a prompt for it, and a small server that runs it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptreg import artifacts
from promptreg.inference.vllm import AttachedPrompts, ServedBase
from promptreg.prompts import SoftPrompt
from promptreg_cli.demo import base_directory, prompt_directory
from registry.inference.vllm.small_server import SmallServer, running


@pytest.fixture(scope="session")
def base() -> ServedBase:
    """The demo's base model."""
    return ServedBase.open(base_directory())


@pytest.fixture(scope="session")
def shout() -> SoftPrompt:
    """A prompt that makes it shout."""
    return artifacts.read(prompt_directory("shout"))


@pytest.fixture(scope="session")
def reverse() -> SoftPrompt:
    """A prompt that makes it write backwards."""
    return artifacts.read(prompt_directory("reverse"))


@pytest.fixture
def attached(base: ServedBase, shout: SoftPrompt, reverse: SoftPrompt) -> AttachedPrompts:
    """Both, attached to it."""
    prompts = AttachedPrompts(base, policy="unchecked")
    prompts.add(shout, name="shout@prod")
    prompts.add(reverse, name="reverse")
    return prompts


@pytest.fixture
def server() -> SmallServer:
    """A server that runs the base model."""
    return SmallServer(directory=base_directory())


@pytest.fixture
def server_url(server: SmallServer) -> Iterator[str]:
    """Where it is."""
    with running(server.app) as url:
        yield url


@pytest.fixture
def chatting_base(tmp_path: Path) -> ServedBase:
    """The demo's base model with a chat template."""
    directory = tmp_path / base_directory().name
    shutil.copytree(base_directory(), directory)
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (directory / "chat_template.jinja").write_text(template)
    return ServedBase.open(directory)
