"""From the front to the vLLM server and back: a request goes on, its answer comes back reshaped."""

import json
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any

from promptreg.inference.vllm.reading import Prompted
from promptreg.inference.vllm.refusals import Refusal, upstream_gone, upstream_unfit
from promptreg.inference.vllm.replies import Reshape, rewrite_events

if TYPE_CHECKING:
    import httpx2
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["Forwarder"]

_PASSED = ("authorization", "x-request-id")  # a server with a key asks the client for it
_NOT_FOUND = 404


class Forwarder:
    """The connection to one vLLM server."""

    def __init__(self, client: "httpx2.AsyncClient") -> None:
        self._client = client
        self._url = str(client.base_url)

    async def check_health(self) -> None:
        """Return if the server is well.

        Raises:
            Refusal: It is not.
        """
        response: httpx2.Response = await self._reach(self._client.get("/health"))
        if not response.is_success:
            raise upstream_gone(self._url, f"its health is {response.status_code}")

    async def ask(
        self,
        request: "Request",
        path: str,
        asked: Prompted,
        whole: Reshape,
        piece: Reshape,
    ) -> "Response":
        """Ask the server what ``request`` comes to, for as long as its client is there.

        Args:
            request: The client's request.
            path: What to ask: ``/v1/completions``.
            asked: What with.
            whole: Reshapes an answer that comes at once.
            piece: Reshapes each piece of one that is streamed.

        Raises:
            Refusal: The server does not answer, or not as one that takes prompts.
        """
        from starlette.responses import JSONResponse, Response, StreamingResponse

        response = await _while_connected(request, self._send(request, path, asked))
        if response is None:
            return Response(status_code=499)  # nobody reads it
        if asked.stream and response.is_success:
            return StreamingResponse(self._stream(response, piece), media_type="text/event-stream")
        try:
            document: dict[str, Any] = response.json()
        except ValueError as error:
            raise upstream_gone(self._url, f"status {response.status_code}, and no JSON") from error
        if response.is_success:
            return JSONResponse(whole(document))
        said = _in_openai_shape(document)
        if "prompt_embeds" in asked.body and _is_unfit(response.status_code, said):
            raise upstream_unfit(self._url, said["error"].get("message"))
        return JSONResponse(said, status_code=response.status_code)

    async def _send(self, request: "Request", path: str, asked: Prompted) -> "httpx2.Response":
        passed = {key: request.headers[key] for key in _PASSED if key in request.headers}
        sent = self._client.build_request("POST", path, json=asked.body, headers=passed)
        response: httpx2.Response = await self._reach(self._client.send(sent, stream=True))
        if not asked.stream or not response.is_success:
            await self._reach(response.aread())
        return response

    async def _reach(self, call: "Awaitable[Any]") -> Any:
        import httpx2

        try:
            return await call
        except httpx2.TransportError as error:
            raise upstream_gone(self._url, error or type(error).__name__) from error

    async def _stream(self, response: "httpx2.Response", reshape: Reshape) -> AsyncIterator[str]:
        import anyio
        import httpx2

        try:
            async for line in rewrite_events(response.aiter_lines(), reshape):
                yield line
        except httpx2.TransportError as error:
            gone = upstream_gone(self._url, error or type(error).__name__)
            yield f"data: {json.dumps(gone.body)}\n\n"
        finally:
            # Where the client left, this task is cancelled: the server must hear of it all the same.
            with anyio.CancelScope(shield=True):
                await response.aclose()


async def _while_connected(
    request: "Request", call: "Awaitable[httpx2.Response]"
) -> "httpx2.Response | None":
    """Await ``call`` as long as the client is there; None if it leaves, and then the call is cancelled."""
    import anyio

    async def cancel_when_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        tasks.cancel_scope.cancel()

    result: httpx2.Response | None = None
    refusal: Refusal | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel_when_gone)
        try:
            result = await call
        except Refusal as error:  # kept, because a task group would put it into a group of errors
            refusal = error
        tasks.cancel_scope.cancel()
    if refusal is not None:
        raise refusal
    return result


def _is_unfit(status: int, error: dict[str, Any]) -> bool:
    """Return whether the server was exchanged for one that cannot answer: without embeddings, or the model."""
    message = str(error["error"].get("message"))
    return status == _NOT_FOUND or "enable-prompt-embeds" in message


def _in_openai_shape(document: Any) -> dict[str, Any]:
    """Return an error of the vLLM server as OpenAI's API has it; older releases put no ``error`` around it."""
    if isinstance(document, dict) and isinstance(document.get("error"), dict):
        return document
    return {"error": document if isinstance(document, dict) else {"message": str(document)}}
