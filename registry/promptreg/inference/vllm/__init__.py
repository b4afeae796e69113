"""Beyond one process: prompts on vLLM, which is fed soft prompt and embedded text (``prompt_embeds``).

An offline engine for batches, and a thin front for a server. The front needs no vllm where it runs, only the
server that it stands before. Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptreg.inference.vllm.attached import AttachedPrompts
    from promptreg.inference.vllm.bases import ServedBase
    from promptreg.inference.vllm.embedding import load_input_embedding
    from promptreg.inference.vllm.engine import Continuation, VLLMEngine
    from promptreg.inference.vllm.front import make_app
    from promptreg.inference.vllm.server_process import ServerProcess
    from promptreg.inference.vllm.upstream import Upstream, check_upstream

_MODULES = {
    "AttachedPrompts": "attached",
    "Continuation": "engine",
    "ServedBase": "bases",
    "ServerProcess": "server_process",
    "Upstream": "upstream",
    "VLLMEngine": "engine",
    "check_upstream": "upstream",
    "load_input_embedding": "embedding",
    "make_app": "front",
}

__all__ = [
    "AttachedPrompts",
    "Continuation",
    "ServedBase",
    "ServerProcess",
    "Upstream",
    "VLLMEngine",
    "check_upstream",
    "load_input_embedding",
    "make_app",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"promptreg.inference.vllm.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'promptreg.inference.vllm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
