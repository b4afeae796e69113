"""vLLM's offline engine itself: started, asked, ended, and its errors translated where they enter."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from promptreg.errors import AttachError, MissingDependencyError
from promptreg.inference.vllm.bases import ServedBase

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

__all__ = ["OfflineVLLM", "import_vllm"]

_Errors = tuple[type[Exception], ...]
_NOT_OURS = {
    "enable_prompt_embeds": "a prompt is fed to vLLM as embeddings, so it is always on",
    "model": "the base model is the directory, the first argument",
    "tokenizer": "the tokenizer of the base model's directory is used",
}


class OfflineVLLM:
    """One ``vllm.LLM`` that takes embeddings.

    Attributes:
        window: How many tokens a request may have (``max_model_len``).
    """

    def __init__(self, base: ServedBase, arguments: dict[str, Any]) -> None:
        """Start it on ``base``, in the dtype of its embedding, with further arguments of ``vllm.LLM``.

        Raises:
            AttachError: It does not start.
            MissingDependencyError: vllm is not installed.
        """
        for name in sorted(_NOT_OURS.keys() & arguments.keys()):
            raise AttachError(f"{name} was given, and {_NOT_OURS[name]}", f"leave {name} out")
        vllm = import_vllm()
        self._params: type[SamplingParams] = vllm.SamplingParams
        self._refusals, self._failures = _error_classes(vllm)
        try:
            self._llm: Any = vllm.LLM(
                str(base.directory), enable_prompt_embeds=True, dtype=base.dtype, **arguments
            )
        except self._failures as error:
            raise AttachError(
                f"vLLM {vllm.__version__} does not start on {base.directory} ({_first_line(error)})",
                "what it printed above says why; change the engine's arguments, or work in process",
            ) from error
        self.window: int = self._llm.llm_engine.model_config.max_model_len

    def settings(self, **settings: Any) -> "SamplingParams":
        """Return how to sample.

        Raises:
            AttachError: vLLM does not take these settings.
        """
        try:
            return self._params(**settings)
        except self._refusals as error:
            raise AttachError(
                f"vLLM does not take these settings ({_first_line(error)})", "change what it names"
            ) from error

    def run(
        self, inputs: Sequence[dict[str, Any]], settings: "Sequence[SamplingParams]"
    ) -> "list[RequestOutput]":
        """Run a batch and return what vLLM says to each input.

        Raises:
            AttachError: It was closed, vLLM refuses the batch, or fails in the middle of it.
        """
        if self._llm is None:
            raise AttachError("this engine was closed", "start another one")
        if not inputs:
            return []
        try:
            outputs: list[RequestOutput] = self._llm.generate(inputs, settings, use_tqdm=False)
        except self._refusals as error:
            raise AttachError(
                f"vLLM refuses the batch ({_first_line(error)})", "change what it names"
            ) from error
        except self._failures as error:
            raise AttachError(
                f"vLLM failed in the middle of a batch ({_first_line(error)})",
                "what it printed says why; close this engine and start another one",
            ) from error
        return outputs

    def close(self) -> None:
        """End vLLM's processes. Doing it again changes nothing."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None


def import_vllm() -> Any:
    """Return the package, once it is needed: importing it takes seconds.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import vllm
    except ImportError as error:
        raise MissingDependencyError("vllm", "vllm", "running prompts on vLLM") from error
    return vllm


def _error_classes(vllm: Any) -> "tuple[_Errors, _Errors]":
    """Return what vLLM raises where a request is wrong, and where it fails itself."""
    errors = getattr(vllm, "exceptions", None)  # older releases raise Python's own alone
    client: type[Exception] = getattr(errors, "VLLMClientError", ValueError)
    server: type[Exception] = getattr(errors, "VLLMError", RuntimeError)
    refusals = (TypeError, ValueError, client)
    return refusals, (*refusals, OSError, RuntimeError, server)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
