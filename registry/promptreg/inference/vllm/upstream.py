"""The vLLM server behind the front: what it serves, and whether it can be fed prompts."""

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptreg.errors import AttachError, MissingDependencyError

if TYPE_CHECKING:
    import httpx2
    from torch import Tensor

    from promptreg.inference.vllm.bases import ServedBase

__all__ = ["Upstream", "check_upstream", "encode_embeddings"]

_CONNECT = 10.0  # seconds
_PROBED = 120.0  # seconds for a token, on a server that is busy already
_TEXT = "The quick brown fox jumps over the lazy dog and"
_TOP = 5
_NEAR = 1.0  # of log-probability: rounding moves it by hundredths, another embedding by ten


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A vLLM server that was found to serve the base model and to take prompts as embeddings.

    Attributes:
        url: Where it is, without ``/v1``.
        model: What it calls the base model.
        window: How many tokens it lets a request have (``max_model_len``).
    """

    url: str
    model: str
    window: int


def check_upstream(
    url: str, base: "ServedBase", *, model: str | None = None, api_key: str | None = None
) -> Upstream:
    """Prove that the vLLM server at ``url`` serves ``base`` and takes embeddings.

    Its model must be read from a directory of that path or at least that name, unless ``model`` says which one
    is meant; and it must say the same after the embeddings of a text as after the text: that shows that it has
    the same embedding, in the same dtype as good as, and was started with ``--enable-prompt-embeds``.

    Args:
        url: Where it is: ``http://127.0.0.1:8000``.
        base: The base model.
        model: What the server calls it, where its directory has another name there.
        api_key: What the server wants to hear, if it was started with ``--api-key``.

    Raises:
        AttachError: There is no such server, it serves another model, or it takes no embeddings.
        MissingDependencyError: httpx2 is not installed.
    """
    try:
        import httpx2
    except ImportError as error:
        raise MissingDependencyError("httpx2", "serve", "serving prompts on vLLM") from error
    url = url.rstrip("/").removesuffix("/v1")
    try:
        with httpx2.Client(
            base_url=url,
            timeout=httpx2.Timeout(_PROBED, connect=_CONNECT),
            headers={"authorization": f"Bearer {api_key}"} if api_key else None,
            trust_env=False,  # an inner hop: a proxy for the outside has no part in it
        ) as client:
            upstream = _find_model(client, url, base, model)
            _probe(client, upstream, base)
    except (httpx2.TransportError, httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise AttachError(
            f"no vLLM server answers at {url} ({error or type(error).__name__})",
            f"start it: vllm serve {base.directory} --enable-prompt-embeds",
        ) from error
    return upstream


def encode_embeddings(embeddings: "Tensor") -> str:
    """Return embeddings [T, H] as vLLM's ``prompt_embeds`` takes them: a saved tensor in base64."""
    import torch

    buffer = io.BytesIO()
    # A clone: saving a view saves all that it is a view of.
    torch.save(embeddings.detach().clone(), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _find_model(
    client: "httpx2.Client", url: str, base: "ServedBase", model: str | None
) -> Upstream:
    response = client.get("/v1/models")
    try:
        served: list[dict[str, Any]] = response.json()["data"] if response.is_success else []
        names = [str(entry["id"]) for entry in served]
    except (ValueError, KeyError, TypeError) as error:
        raise _not_vllm(url, response.status_code) from error
    if not served:
        raise _not_vllm(url, response.status_code)
    for entry in served:
        if _is_named(entry, model) if model is not None else _is_base(entry, base.directory):
            window = entry.get("max_model_len")
            if not isinstance(window, int):
                raise AttachError(
                    f"the server at {url} does not say how long a text may be (max_model_len)",
                    "use a vLLM server, of release 0.20 or later",
                )
            return Upstream(url=url, model=str(entry["id"]), window=window)
    wanted = model if model is not None else base.directory
    raise AttachError(
        f"the server at {url} serves {', '.join(names)}, and not {wanted}",
        f"start it with --model {base.directory}, or say with --upstream-model which of them has these weights",
    )


def _is_named(entry: Mapping[str, Any], model: str) -> bool:
    return bool(entry["id"] == model)


def _is_base(entry: Mapping[str, Any], directory: Path) -> bool:
    """Return whether a served model was read from ``directory``, or one of that name on its own machine."""
    root = Path(str(entry.get("root") or entry["id"]))
    if root.is_dir():
        return root.resolve() == directory.resolve()
    return directory.resolve().name == root.name or directory.name == root.name


def _probe(client: "httpx2.Client", upstream: Upstream, base: "ServedBase") -> None:
    """Compare what the server says after a text and after the text's embeddings."""
    ids = base.read(_TEXT)[: upstream.window - 1]
    settings = {"model": upstream.model, "max_tokens": 1, "temperature": 0, "logprobs": _TOP}
    plain = _ask(client, upstream, {**settings, "prompt": ids})
    embeddings = encode_embeddings(base.embed(ids))
    embedded = _ask(client, upstream, {**settings, "prompt_embeds": embeddings})
    shared = plain.keys() & embedded.keys()
    off = max((abs(plain[token] - embedded[token]) for token in shared), default=math.inf)
    if not off <= _NEAR:
        raise AttachError(
            f"the server at {upstream.url} says something else after a text than after the embeddings that "
            f"{base.directory} has for it: its {upstream.model} is another base model",
            f"start it with --model {base.directory}",
        )


def _ask(client: "httpx2.Client", upstream: Upstream, body: dict[str, Any]) -> dict[str, float]:
    """Return the log-probabilities of the likeliest next tokens."""
    response = client.post("/v1/completions", json=body)
    try:
        document = response.json()
        if response.is_success:
            found: dict[str, float] = document["choices"][0]["logprobs"]["top_logprobs"][0]
            return found
        message = str((document.get("error") or document).get("message") or document)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _not_vllm(upstream.url, response.status_code) from error
    if "prompt_embeds" in body:
        raise AttachError(
            f"the vLLM server at {upstream.url} takes no prompts as embeddings ({message})",
            "start it with --enable-prompt-embeds; a release before 0.20 must be upgraded",
        )
    raise AttachError(
        f"the vLLM server at {upstream.url} refuses a text ({message})", "mend what it names"
    )


def _not_vllm(url: str, status: int) -> AttachError:
    return AttachError(
        f"what answers at {url} is no vLLM server that generates (status {status})",
        "name the address of one, without a path: http://127.0.0.1:8000",
    )
