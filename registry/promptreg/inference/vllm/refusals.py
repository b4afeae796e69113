"""Errors of the front, in the shape that clients of OpenAI's API read."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.responses import JSONResponse

__all__ = [
    "Refusal",
    "not_that",
    "too_long",
    "unknown_model",
    "upstream_gone",
    "upstream_unfit",
]


class Refusal(Exception):  # noqa: N818 - an answer to a client, not an error of the library
    """A request is answered with an error.

    Attributes:
        status: The HTTP status.
        body: What the client gets: ``{"error": {"message", "type", "param", "code"}}``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.body: dict[str, Any] = {
            "error": {"message": message, "type": kind, "param": param, "code": code}
        }

    def response(self) -> "JSONResponse":
        """Return the answer."""
        from starlette.responses import JSONResponse

        return JSONResponse(self.body, status_code=self.status)


def not_that(param: str, why: str, remedy: str) -> Refusal:
    """Return the refusal of a parameter that has no meaning, or no valid one, here."""
    return Refusal(400, f"{param}: {why}; {remedy}", param=param)


def unknown_model(name: object, known: "Collection[str]") -> Refusal:
    """Return the refusal of a model that is not served."""
    listed = ", ".join(known)
    return Refusal(
        404,
        f"no model is {name!r} here; there is {listed}",
        kind="not_found_error",
        param="model",
        code="model_not_found",
    )


def too_long(tokens: int, *, prompt: int, new: int, window: int) -> Refusal:
    """Return the refusal of a text that does not fit into the window behind its soft prompt.

    Args:
        tokens: How long the text is.
        prompt: How long the soft prompt is.
        new: How many tokens are to be said.
        window: How many tokens the base model reads at once here.
    """
    room = max(window - prompt - new, 0)
    return Refusal(
        400,
        f"the text is {tokens} tokens long, and {room} fit into the window of {window} behind the "
        f"{prompt} of the soft prompt and with {new} to be said; shorten it, or ask for fewer with max_tokens",
        param="prompt",
        code="context_length_exceeded",
    )


def upstream_gone(url: str, reason: object) -> Refusal:
    """Return the answer where the vLLM server does not."""
    return Refusal(
        503,
        f"the vLLM server at {url} does not answer ({reason}); start it again",
        kind="server_error",
        code="upstream_unavailable",
    )


def upstream_unfit(url: str, reason: object) -> Refusal:
    """Return the answer where the vLLM server is no longer one that can be fed prompts."""
    return Refusal(
        502,
        f"the vLLM server at {url} takes no prompts any more ({reason}); start it with the base model and with "
        "--enable-prompt-embeds, and the front after it",
        kind="server_error",
        code="upstream_unfit",
    )
