"""A vLLM server of our own: started as a child on a free loopback port, awaited, and ended with us."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from promptreg.errors import AttachError, MissingDependencyError

if TYPE_CHECKING:
    from promptreg.inference.vllm.bases import ServedBase

__all__ = ["ServerProcess"]

_MODULE = "vllm.entrypoints.openai.api_server"
_LOOPBACK = "127.0.0.1"
_ASKED_EVERY = 0.5  # seconds
_PATIENCE = 1800.0  # seconds that loading a large model may take
_TO_END = 20.0  # seconds that a server gets to end by itself
_SHOWN = 15  # lines of its log in an error


class ServerProcess:
    """A vLLM server that takes embeddings, as a child process; as a context manager, it is ended at the end.

    Attributes:
        url: Where it is.
        log: The file that holds what it prints.
    """

    def __init__(self, base: "ServedBase", arguments: Sequence[str] = ()) -> None:
        """Start a server on ``base``; ``wait`` says when it is ready.

        Args:
            base: The base model, which it runs in the dtype of the base's embedding.
            arguments: Further arguments of ``vllm serve``.

        Raises:
            MissingDependencyError: vllm is not installed beside promptreg.
        """
        if find_spec("vllm") is None:
            raise MissingDependencyError("vllm", "vllm", "starting a vLLM server")
        port = _free_port()
        self.url = f"http://{_LOOPBACK}:{port}"
        handle, name = tempfile.mkstemp(prefix="promptreg-vllm-", suffix=".log")
        self.log = Path(name)
        with os.fdopen(handle, "wb") as log:
            # A session of its own, so that a Ctrl-C reaches us alone and we end it in order.
            self._child = subprocess.Popen(  # noqa: S603
                [
                    *(sys.executable, "-m", _MODULE),
                    *("--model", str(base.directory), "--enable-prompt-embeds"),
                    *("--dtype", base.dtype, "--host", _LOOPBACK, "--port", str(port)),
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, progress: Callable[[str], None] = lambda _line: None) -> None:
        """Return when the server is ready.

        Args:
            progress: Called with the last line that it printed, whenever that changes.

        Raises:
            AttachError: It ended instead, or took half an hour.
        """
        import httpx2

        until = time.monotonic() + _PATIENCE
        last = ""
        with httpx2.Client(base_url=self.url, timeout=10.0, trust_env=False) as client:
            while time.monotonic() < until:
                if self._child.poll() is not None:
                    raise self._failed(f"ended with status {self._child.returncode}")
                with suppress(httpx2.TransportError):  # it does not listen yet
                    if client.get("/health").is_success:
                        return
                if (line := self._last_lines(1)) != last:
                    last = line
                    progress(line)
                time.sleep(_ASKED_EVERY)
        raise self._failed(f"was not ready after {_PATIENCE / 60:.0f} minutes")

    def close(self) -> None:
        """End the server and what it started. Doing it again changes nothing."""
        if self._child.poll() is None:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_TO_END)
        self._signal(signal.SIGKILL)  # its workers, where it left any behind
        self._child.wait()
        self.log.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # all of them have ended
            os.killpg(self._child.pid, number)

    def _failed(self, what: str) -> AttachError:
        return AttachError(
            f"the vLLM server {what}, having said: {self._last_lines(_SHOWN)}",
            "change its arguments (after --), or start one yourself and name it with --upstream",
        )

    def _last_lines(self, count: int) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines()]
        return "\n".join([line for line in lines if line][-count:])


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind((_LOOPBACK, 0))
        port: int = listening.getsockname()[1]
    return port
