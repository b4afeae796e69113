"""The front before a vLLM server: OpenAI's API, where the name of the model is the name of a prompt.

Thin on purpose: batching, scheduling and sampling are vLLM's. What names a prompt is rewritten into a
completion of embeddings; what names the bare base model goes through as it is.
"""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from promptreg.errors import ConflictError, MissingDependencyError, PromptregError
from promptreg.inference.vllm.attached import AttachedPrompt, AttachedPrompts
from promptreg.inference.vllm.forwarding import Forwarder
from promptreg.inference.vllm.reading import Prompted, read_chat, read_completion
from promptreg.inference.vllm.refusals import Refusal, not_that, unknown_model
from promptreg.inference.vllm.replies import as_chat, as_chat_chunk, rename
from promptreg.inference.vllm.upstream import Upstream

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["make_app"]

_COMPLETIONS = "/v1/completions"
_CHAT = "/v1/chat/completions"
_CONNECT = 10.0  # seconds


def make_app(
    upstream: Upstream,
    attached: AttachedPrompts,
    *,
    name: str | None = None,
) -> "Starlette":
    """Return the ASGI application that serves the attached prompts and their base model.

    Args:
        upstream: The vLLM server, as ``check_upstream`` found it.
        attached: The prompts; they may change while it runs (``Follower`` changes them as aliases move).
        name: What clients call the bare base model; the name of its directory if None. The server's own name
            for it is understood too.

    Raises:
        ConflictError: A prompt has the base model's name.
        MissingDependencyError: starlette or httpx2 is not installed.
    """
    try:
        import httpx2
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route
    except ImportError as error:
        raise MissingDependencyError("starlette", "serve", "serving prompts on vLLM") from error
    front = _Front(upstream, attached, name or attached.served.directory.resolve().name)
    front.check()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        # An inner hop: a proxy for the outside has no part in it. An answer may take as long as it takes.
        async with httpx2.AsyncClient(
            base_url=upstream.url,
            timeout=httpx2.Timeout(None, connect=_CONNECT),
            limits=httpx2.Limits(max_connections=None),
            trust_env=False,
        ) as client:
            front.forwarder = Forwarder(client)
            yield

    return Starlette(
        routes=[
            Route("/health", front.health),
            Route("/v1/models", front.models),
            Route("/v1/models/{name:path}", front.model),
            Route(_COMPLETIONS, front.complete, methods=["POST"]),
            Route(_CHAT, front.chat, methods=["POST"]),
        ],
        exception_handlers={
            Refusal: _answer_refusal,
            PromptregError: _answer_error,
            HTTPException: _answer_http,
            Exception: _answer_bug,
        },
        lifespan=lifespan,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a client asks for.

    Attributes:
        name: The model, as it calls it.
        prompt: The prompt that this is; None for the bare base model.
        body: The whole request.
    """

    name: str
    prompt: AttachedPrompt | None
    body: dict[str, Any]


class _Front:
    """The routes."""

    def __init__(self, upstream: Upstream, attached: AttachedPrompts, name: str) -> None:
        self.forwarder: Forwarder
        self._upstream = upstream
        self._attached = attached
        self._name = name
        self._started = int(time.time())

    def check(self) -> None:
        """Return if each attached prompt can be served."""
        for prompt in self._attached.values():
            if prompt.name in {self._name, self._upstream.model}:
                raise ConflictError(
                    f"a prompt is named {prompt.name}",
                    "that is the name of the base model",
                    "give the base model another name (--name)",
                )

    async def health(self, _request: "Request") -> "Response":
        """Say whether the vLLM server is well."""
        from starlette.responses import JSONResponse

        await self.forwarder.check_health()
        return JSONResponse({"status": "ok"})

    async def models(self, _request: "Request") -> "Response":
        """List the base model and the attached prompts."""
        from starlette.responses import JSONResponse

        return JSONResponse({"object": "list", "data": self._entries()})

    async def model(self, request: "Request") -> "Response":
        """Describe one of them."""
        from starlette.responses import JSONResponse

        name = request.path_params["name"]
        for entry in self._entries():
            if entry["id"] == name:
                return JSONResponse(entry)
        raise unknown_model(name, self._known())

    async def complete(self, request: "Request") -> "Response":
        """Continue texts."""
        asked = await self._read(request)
        if asked.prompt is None:
            return await self._pass_through(request, asked, _COMPLETIONS)
        prompted = await self._prepare(read_completion, asked, asked.prompt)
        named = partial(rename, model=asked.name)
        return await self.forwarder.ask(request, _COMPLETIONS, prompted, named, named)

    async def chat(self, request: "Request") -> "Response":
        """Answer in a chat."""
        asked = await self._read(request)
        if asked.prompt is None:
            return await self._pass_through(request, asked, _CHAT)
        prompted = await self._prepare(read_chat, asked, asked.prompt)
        chunk = as_chat_chunk()
        return await self.forwarder.ask(
            request,
            _COMPLETIONS,
            prompted,
            lambda document: rename(as_chat(document), asked.name),
            lambda piece: rename(chunk(piece), asked.name),
        )

    async def _read(self, request: "Request") -> _Asked:
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise Refusal(400, f"the request is not JSON ({error}); send a JSON object") from error
        if not isinstance(body, dict):
            raise Refusal(400, "the request is no JSON object; send one")
        name = body.get("model")
        if not isinstance(name, str):
            raise not_that("model", "it is missing, or no text", f"name one of {self._known()}")
        if name in {self._name, self._upstream.model}:
            return _Asked(name=name, prompt=None, body=body)
        # By its very name: an alias that it had when it was pulled may mean another version by now.
        prompt = self._attached.get(name)
        if prompt is None:
            raise unknown_model(name, self._known())
        if prompt.is_ensemble:
            raise not_that(
                "model",
                f"{name} is an ensemble, whose members each say something else",
                "name one of its members; ensembles answer in process, and by VLLMEngine.answer",
            )
        return _Asked(name=name, prompt=prompt, body=body)

    def _known(self) -> list[str]:
        return [self._name, *self._attached]

    async def _prepare(
        self,
        read: Callable[[dict[str, Any], AttachedPrompt, AttachedPrompts, Upstream], Prompted],
        asked: _Asked,
        prompt: AttachedPrompt,
    ) -> Prompted:
        """Rewrite a request, in a thread: long texts take their time."""
        from starlette.concurrency import run_in_threadpool

        return await run_in_threadpool(read, asked.body, prompt, self._attached, self._upstream)

    async def _pass_through(self, request: "Request", asked: _Asked, path: str) -> "Response":
        body = {**asked.body, "model": self._upstream.model}
        named = partial(rename, model=asked.name)
        plain = Prompted(body=body, stream=bool(body.get("stream")))
        return await self.forwarder.ask(request, path, plain, named, named)

    def _entries(self) -> list[dict[str, Any]]:
        shared = {"object": "model", "created": self._started, "owned_by": "promptreg"}
        base = {
            "id": self._name,
            **shared,
            "root": self._attached.served.directory.name,
            "parent": None,
            "max_model_len": self._upstream.window,
        }
        prompts = [
            {
                "id": prompt.name,
                **shared,
                "root": prompt.version.ref if prompt.version else prompt.name,
                "parent": self._name,
                "max_model_len": self._upstream.window - len(prompt.members[0]),
            }
            for prompt in self._attached.values()
            if not prompt.is_ensemble
        ]
        return [base, *prompts]


async def _answer_refusal(_request: "Request", error: Exception) -> "Response":
    if not isinstance(error, Refusal):
        raise error
    return error.response()


async def _answer_error(_request: "Request", error: Exception) -> "Response":
    return Refusal(400, str(error)).response()


async def _answer_http(_request: "Request", error: Exception) -> "Response":
    status = getattr(error, "status_code", 500)
    detail = getattr(error, "detail", "")
    return Refusal(status, f"{detail}; there are /v1/models, {_COMPLETIONS} and {_CHAT}").response()


async def _answer_bug(_request: "Request", _error: Exception) -> "Response":
    # Starlette raises the error once more behind this answer, so that the log shows where it was.
    return Refusal(500, "the front failed; its log says where", kind="server_error").response()
