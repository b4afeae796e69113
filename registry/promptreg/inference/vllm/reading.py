"""Requests of clients: which prompt they name, and what vLLM is asked instead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptreg.inference.vllm.attached import AttachedPrompt, AttachedPrompts
from promptreg.inference.vllm.refusals import Refusal, not_that, too_long
from promptreg.inference.vllm.upstream import Upstream, encode_embeddings

__all__ = ["Prompted", "read_chat", "read_completion"]

_DEFAULT_TOKENS = 16  # of OpenAI's completions, and vLLM's
_EMBEDDED = "a soft prompt is fed to the model as embeddings, which have no text"
_NOT_WITH_PROMPT = {
    "echo": _EMBEDDED,
    "prompt_embeds": "the request names a soft prompt already",
    "prompt_logprobs": _EMBEDDED,
    "suffix": _EMBEDDED,
    "truncate_prompt_tokens": "a text that is too long is refused rather than cut",
}
_OWN_TEMPLATE = "the base model's own is used, and code of clients is not run"
_NOT_IN_CHAT = {
    "audio": "only texts are answered",
    "chat_template": _OWN_TEMPLATE,
    "function_call": "no tools are called behind a soft prompt",
    "functions": "no tools are called behind a soft prompt",
    "logprobs": "they are given for /v1/completions",
    "tools": "no tools are called behind a soft prompt",
    "top_logprobs": "they are given for /v1/completions",
}
_CHAT_ONLY = {
    "add_generation_prompt", "chat_template_kwargs", "continue_final_message",
    "max_completion_tokens", "messages", "parallel_tool_calls", "tool_choice", *_NOT_IN_CHAT,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompted:
    """What to ask the vLLM server for a request that names a prompt.

    Attributes:
        body: The body of the completion.
        stream: Whether the answer comes piece by piece.
    """

    body: dict[str, Any]
    stream: bool


def read_completion(
    body: Mapping[str, Any], prompt: AttachedPrompt, attached: AttachedPrompts, upstream: Upstream
) -> Prompted:
    """Return a completion's request with the soft prompt in front of each of its rows.

    A text is put into the prompt's template; token ids are taken as they are.

    Raises:
        Refusal: It asks for what cannot be had behind a soft prompt, or a row is no text or too long.
    """
    rows = [
        row
        if not isinstance(row, str)
        else attached.served.read(
            prompt.fill(row), add_special_tokens=body.get("add_special_tokens", True) is not False
        )
        for row in _rows(body)
    ]
    rest = {key: value for key, value in body.items() if key not in {"prompt", "model"}}
    new = _count(body, "max_tokens") or _DEFAULT_TOKENS
    return _prompted(rest, rows, new, prompt, attached, upstream)


def read_chat(
    body: Mapping[str, Any], prompt: AttachedPrompt, attached: AttachedPrompts, upstream: Upstream
) -> Prompted:
    """Return a chat's request as a completion of what the base model's chat template makes of its messages.

    The prompt's own template, which is for one text, is not used.

    Raises:
        Refusal: As ``read_completion``; or there is no chat template, or the messages are none.
    """
    for key, why in _NOT_IN_CHAT.items():
        if body.get(key):
            raise not_that(key, why, "leave it out")
    ids = _apply_template(body, attached)
    new = _count(body, "max_completion_tokens") or _count(body, "max_tokens")
    if new is None:
        new = max(upstream.window - len(prompt.members[0]) - len(ids), 1)
    rest = {key: value for key, value in body.items() if key not in {*_CHAT_ONLY, "model"}}
    return _prompted({**rest, "max_tokens": new}, [ids], new, prompt, attached, upstream)


def _prompted(
    body: dict[str, Any],
    rows: Sequence[Sequence[int]],
    new: int,
    prompt: AttachedPrompt,
    attached: AttachedPrompts,
    upstream: Upstream,
) -> Prompted:
    for key, why in _NOT_WITH_PROMPT.items():
        if body.get(key):
            raise not_that(key, why, "leave it out, or name the bare base model")
        body.pop(key, None)
    length = len(prompt.members[0])
    for row in rows:
        if len(row) + length + new > upstream.window:
            raise too_long(len(row), prompt=length, new=new, window=upstream.window)
    embeddings = [encode_embeddings(prompt.place(attached.served.embed(row))) for row in rows]
    one = embeddings[0] if len(embeddings) == 1 else embeddings
    return Prompted(
        body={**body, "model": upstream.model, "prompt_embeds": one, "add_special_tokens": False},
        stream=bool(body.get("stream")),
    )


def _rows(body: Mapping[str, Any]) -> list[str | list[int]]:
    """Return what is to be continued: a text, several, token ids, or several rows of those."""
    given = body.get("prompt")
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given:
        if all(isinstance(each, str) for each in given):
            return list(given)
        if _are_ids(given):
            return [given]
        if all(isinstance(each, list) and _are_ids(each) for each in given):
            return list(given)
    raise not_that(
        "prompt",
        "it is neither a text, nor a list of texts, nor token ids, nor a list of those",
        "give one of them",
    )


def _are_ids(values: Sequence[Any]) -> bool:
    return bool(values) and all(type(each) is int for each in values)


def _count(body: Mapping[str, Any], key: str) -> int | None:
    value = body.get(key)
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise not_that(key, f"{value!r} is no number of tokens", "give a whole number from 1")
    return value


def _apply_template(body: Mapping[str, Any], attached: AttachedPrompts) -> list[int]:
    """Return the token ids of a chat's messages in the base model's chat template."""
    from jinja2 import TemplateError

    tokenizer: Any = attached.served.tokenizer
    if not tokenizer.chat_template:
        raise Refusal(
            400,
            f"the tokenizer in {attached.served.directory.name} has no chat template; ask "
            "/v1/completions, or serve a base model that chats",
            param="messages",
        )
    settings = body.get("chat_template_kwargs") or {}
    if not isinstance(settings, dict) or "chat_template" in settings:
        raise not_that("chat_template_kwargs", _OWN_TEMPLATE, "leave chat_template out")
    try:
        encoded = tokenizer.apply_chat_template(
            _messages(body),
            add_generation_prompt=body.get("add_generation_prompt", True),
            continue_final_message=body.get("continue_final_message", False),
            tokenize=True,
            return_dict=True,
            **settings,
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise not_that(
            "messages", f"the base model's chat template refuses them ({error})", "change them"
        ) from error
    return list(encoded["input_ids"])


def _messages(body: Mapping[str, Any]) -> list[dict[str, str]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise not_that("messages", "there are none", "give a list of them")
    return [_message(each) for each in messages]


def _message(message: Any) -> dict[str, str]:
    """Return a message with its content as one text."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise not_that("messages", "one is no object with a role", "give each its role and content")
    content = message.get("content")
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, dict) and "text" in part]
        whole = len(texts) == len(content) and all(isinstance(text, str) for text in texts)
        content = "".join(texts) if whole else None
    if not isinstance(content, str):
        raise not_that("messages", "one has a content that is no text", "give texts")
    return {"role": message["role"], "content": content}
