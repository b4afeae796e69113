from importlib.util import find_spec

import pytest

from promptreg.errors import MissingDependencyError
from promptreg.inference.vllm import ServedBase, ServerProcess, VLLMEngine
from promptreg_cli.demo import base_directory

pytestmark = pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed here")


def test_a_server_of_our_own_needs_vllm(base: ServedBase) -> None:
    with pytest.raises(MissingDependencyError, match="starting a vLLM server needs vllm"):
        ServerProcess(base)


def test_the_offline_engine_needs_vllm() -> None:
    with pytest.raises(MissingDependencyError, match="running prompts on vLLM needs vllm"):
        VLLMEngine(base_directory())
