"""Answers of the vLLM server, as the client wants them: with its name for the model, and shaped as a chat."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

__all__ = ["Reshape", "as_chat", "as_chat_chunk", "rename", "rewrite_events"]

Reshape = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes one document of another."""

_DATA = "data:"
_DONE = "[DONE]"


def rename(document: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return an answer under the name by which the client asked for the model."""
    return {**document, "model": model} if "model" in document else dict(document)


def as_chat(completion: Mapping[str, Any]) -> dict[str, Any]:
    """Return a completion as a chat's answer."""
    choices = [
        {
            "index": choice["index"],
            "message": {"role": "assistant", "content": choice["text"]},
            "logprobs": None,
            "finish_reason": choice.get("finish_reason"),
        }
        for choice in completion["choices"]
    ]
    return {**_chat_fields(completion, "chat.completion"), "choices": choices}


def as_chat_chunk() -> Reshape:
    """Return what makes the pieces of one streamed completion, one after another, those of a chat's answer."""
    begun: set[int] = set()

    def reshape(piece: dict[str, Any]) -> dict[str, Any]:
        if "choices" not in piece:  # an error
            return piece
        choices = []
        for choice in piece["choices"]:
            delta = {"content": choice["text"]}
            if choice["index"] not in begun:
                begun.add(choice["index"])
                delta = {"role": "assistant", **delta}
            choices.append(
                {
                    "index": choice["index"],
                    "delta": delta,
                    "logprobs": None,
                    "finish_reason": choice.get("finish_reason"),
                }
            )
        return {**_chat_fields(piece, "chat.completion.chunk"), "choices": choices}

    return reshape


async def rewrite_events(lines: AsyncIterator[str], reshape: Reshape) -> AsyncIterator[str]:
    """Yield a stream of server-sent events, each document in it reshaped, as they come.

    Args:
        lines: The lines of the vLLM server's answer.
        reshape: What to make of each document.
    """
    async for line in lines:
        data = line.removeprefix(_DATA).strip()
        if not line.startswith(_DATA) or data == _DONE:
            yield f"{line}\n"
            continue
        piece = reshape(json.loads(data))
        yield f"{_DATA} {json.dumps(piece, ensure_ascii=False)}\n"


def _chat_fields(completion: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return what chats and completions share."""
    shared = {key: value for key, value in completion.items() if key != "choices"}
    identifier = "chat" + str(completion.get("id", "cmpl"))  # cmpl-… is chatcmpl-…
    return {**shared, "id": identifier, "object": kind}
