"""A small server that answers as vLLM's does, on the demo's base model: for the front's tests, and for faults.

It takes texts, token ids and embeddings, and continues them greedily with transformers. What it cannot be is
vLLM: the tests in ``tests/on_vllm`` run on the real one.
"""

import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import AutoModelForCausalLM, AutoTokenizer

__all__ = ["SmallServer", "running"]

_WINDOW = 128


@dataclass(kw_only=True)
class SmallServer:
    """The server.

    Attributes:
        directory: The base model that it runs.
        root: Where it says that this came from; the directory if None.
        takes_embeddings: Whether it was started with ``--enable-prompt-embeds``.
        breaks_off: Whether it hangs up after the first piece of a stream.
        pauses: Whether it never sends a second piece, and waits to be left.
        seen: The bodies that it was sent.
        left: Set when a client left it waiting.
    """

    directory: Path
    root: str | None = None
    takes_embeddings: bool = True
    breaks_off: bool = False
    pauses: bool = False
    seen: list[dict[str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._tokenizer, self._model = _load(self.directory)

    @property
    def app(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _health(self, _request: Request) -> Response:
        return Response()

    async def _models(self, _request: Request) -> Response:
        root = self.root or str(self.directory)
        entry = {"id": root, "object": "model", "root": root, "max_model_len": _WINDOW}
        return JSONResponse({"object": "list", "data": [entry]})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        message = {"role": "assistant", "content": body["messages"][-1]["content"]}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return JSONResponse({"id": "chatcmpl-0", "model": body["model"], "choices": choices})

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        if "prompt_embeds" in body and not self.takes_embeddings:
            return _error("You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
        if body.get("temperature", 0) < 0:
            return _error("temperature must be non-negative")
        rows = self._rows(body)
        choices = [self._choice(at, row, body) for at, row in enumerate(rows)]
        if body.get("stream"):
            return StreamingResponse(self._pieces(body, choices), media_type="text/event-stream")
        return JSONResponse(_document(body, choices))

    def _rows(self, body: dict[str, Any]) -> list[torch.Tensor]:
        """Return [T, H] the embeddings of each row."""
        if "prompt_embeds" in body:
            given = body["prompt_embeds"]
            encoded = given if isinstance(given, list) else [given]
            return [torch.load(io.BytesIO(base64.b64decode(each))) for each in encoded]
        prompt = body["prompt"]
        ids = self._tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt
        embedded: torch.Tensor = self._model.get_input_embeddings()(torch.tensor(ids))
        return [embedded.detach()]

    @torch.no_grad()
    def _choice(self, index: int, embeddings: torch.Tensor, body: dict[str, Any]) -> dict[str, Any]:
        row, logprobs = embeddings[None].to(self._model.dtype), None
        if top := body.get("logprobs"):
            last = self._model(inputs_embeds=row).logits[0, -1].float().log_softmax(-1).topk(top)
            pairs = zip(last.indices.tolist(), last.values.tolist(), strict=True)
            logprobs = {"top_logprobs": [{self._tokenizer.decode(i): v for i, v in pairs}]}
        new = self._model.generate(
            inputs_embeds=row,
            attention_mask=torch.ones(row.shape[:2], dtype=torch.long),
            max_new_tokens=body.get("max_tokens", 16),
            do_sample=False,
        )
        tokens = [self._tokenizer.decode(each, skip_special_tokens=True) for each in new[0]]
        return {
            "index": index,
            "text": "".join(tokens),
            "tokens": tokens,
            "logprobs": logprobs,
            "finish_reason": "stop",
        }

    async def _pieces(
        self, body: dict[str, Any], choices: list[dict[str, Any]]
    ) -> AsyncIterator[str]:
        try:
            for choice in choices:
                for token in choice["tokens"]:
                    yield f"data: {json.dumps(_document(body, [{**choice, 'text': token}]))}\n\n"
                    if self.breaks_off:
                        raise ConnectionResetError
                    if self.pauses:
                        await anyio.sleep_forever()
            yield "data: [DONE]\n\n"
        finally:
            self.left.set()


@cache
def _load(directory: Path) -> tuple[Any, Any]:
    """Return the tokenizer and the model in ``directory``, loaded once for all servers."""
    tokenizers: Any = AutoTokenizer
    models: Any = AutoModelForCausalLM
    return tokenizers.from_pretrained(directory), models.from_pretrained(directory).eval()


def _document(body: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": "cmpl-0", "object": "text_completion", "model": body["model"], "choices": choices}


def _error(message: str) -> Response:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
    return JSONResponse({"error": error}, status_code=400)


@contextmanager
def running(app: Starlette) -> Iterator[str]:
    """Run an application on a port of its own, and yield its address."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="critical", ws="none", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(RuntimeError):
            server.should_exit = True
            thread.join()
