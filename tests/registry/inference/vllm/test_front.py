import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import torch
from transformers import AutoModelForCausalLM

from promptreg import attach
from promptreg.errors import AttachError, ConflictError
from promptreg.inference.vllm import AttachedPrompts, ServedBase, Upstream, check_upstream, make_app
from promptreg.prompts import SoftPrompt
from promptreg_cli.demo import base_directory
from registry.inference.vllm.small_server import SmallServer, running

BASE = base_directory().name
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"


@pytest.fixture
def upstream(server_url: str, base: ServedBase) -> Upstream:
    return check_upstream(server_url, base)


@pytest.fixture
def client(upstream: Upstream, attached: AttachedPrompts) -> Iterator[httpx2.Client]:
    with (
        running(make_app(upstream, attached)) as url,
        httpx2.Client(base_url=url, timeout=30) as connected,
    ):
        yield connected


def in_process(base: ServedBase, prompt: SoftPrompt, text: str, new: int) -> str:
    """Return what the prompted model says to ``text`` in this process."""
    model: Any = AutoModelForCausalLM.from_pretrained(base.directory)
    ids = torch.tensor([base.read(text)])
    with attach(model, prompt, policy="unchecked") as prompted:
        output = prompted.generate(ids, max_new_tokens=new, do_sample=False)
    return str(base.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


def ask(client: httpx2.Client, path: str = COMPLETIONS, **body: Any) -> Any:
    response = client.post(path, json={"max_tokens": 12, "temperature": 0, **body})
    assert response.status_code == 200, response.text
    return response.json()


def refusal(client: httpx2.Client, status: int, path: str = COMPLETIONS, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()["error"]


def test_the_name_of_the_model_is_the_name_of_the_prompt(
    client: httpx2.Client, base: ServedBase, shout: SoftPrompt
) -> None:
    answer = ask(client, model="shout@prod", prompt="garden")
    assert answer["model"] == "shout@prod"
    assert answer["choices"][0]["text"] == in_process(base, shout, "garden", 12)
    assert "GARDEN" in answer["choices"][0]["text"]


def test_the_bare_base_goes_through_under_its_own_name(
    client: httpx2.Client, server: SmallServer
) -> None:
    for name in (BASE, str(base_directory())):
        answer = ask(client, model=name, prompt="garden")
        assert answer["model"] == name
        assert "garden" in answer["choices"][0]["text"]
        assert server.seen[-1]["prompt"] == "garden"
        assert server.seen[-1]["model"] == str(base_directory())


def test_several_texts_are_several_choices(client: httpx2.Client) -> None:
    answer = ask(client, model="shout@prod", prompt=["garden", "river"])
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts == [
        ask(client, model="shout@prod", prompt=text)["choices"][0]["text"]
        for text in ("garden", "river")
    ]


def test_token_ids_are_taken_as_they_are(client: httpx2.Client, base: ServedBase) -> None:
    rows = [base.read("garden"), base.read("river")]
    answer = ask(client, model="shout@prod", prompt=rows)
    assert (
        answer["choices"] == ask(client, model="shout@prod", prompt=["garden", "river"])["choices"]
    )
    alone = ask(client, model="shout@prod", prompt=rows[0])
    assert alone["choices"] == answer["choices"][:1]


def test_a_text_is_put_into_the_prompts_template(
    client: httpx2.Client, attached: AttachedPrompts, shout: SoftPrompt
) -> None:
    from dataclasses import replace

    attached.add(replace(shout, template="{text} of roses"), name="roses")
    filled = ask(client, model="roses", prompt="garden")["choices"]
    assert filled == ask(client, model="shout@prod", prompt="garden of roses")["choices"]


def test_a_stream_passes_through_with_its_models_name(client: httpx2.Client) -> None:
    whole = ask(client, model="shout@prod", prompt="garden")["choices"][0]["text"]
    pieces = stream(client, COMPLETIONS, model="shout@prod", prompt="garden")
    assert {piece["model"] for piece in pieces} == {"shout@prod"}
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == whole
    assert len(pieces) > 1


def stream(client: httpx2.Client, path: str, **body: Any) -> list[dict[str, Any]]:
    settings = {"max_tokens": 12, "temperature": 0, "stream": True}
    with client.stream("POST", path, json={**settings, **body}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_the_models_are_the_base_and_the_prompts(client: httpx2.Client) -> None:
    listed = client.get("/v1/models").json()["data"]
    assert [entry["id"] for entry in listed] == [BASE, "shout@prod", "reverse"]
    assert [entry["parent"] for entry in listed] == [None, BASE, BASE]
    assert listed[1]["max_model_len"] == 128 - 8
    for entry in listed:
        assert client.get(f"/v1/models/{entry['id']}").json() == entry
    assert client.get("/v1/models/spam@prod").status_code == 404


def test_a_prompt_that_is_added_or_removed_is_there_or_gone(
    client: httpx2.Client, attached: AttachedPrompts, reverse: SoftPrompt
) -> None:
    attached.add(reverse, name="new")
    assert ask(client, model="new", prompt="garden")["model"] == "new"
    attached.remove("new")
    assert refusal(client, 404, model="new", prompt="garden")["code"] == "model_not_found"


def test_an_unknown_model_is_told_which_there_are(client: httpx2.Client) -> None:
    for path in (COMPLETIONS, CHAT):
        error = refusal(client, 404, path, model="spam@prod", prompt="x")
        assert (
            error["message"]
            == f"no model is 'spam@prod' here; there is {BASE}, shout@prod, reverse"
        )
        assert error["param"] == "model"


def test_a_text_that_is_too_long_is_told_how_much_fits(client: httpx2.Client) -> None:
    error = refusal(client, 400, model="shout@prod", prompt="garden " * 40, max_tokens=20)
    assert "100 fit into the window of 128 behind the 8 of the soft prompt" in error["message"]
    assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("field", "value"),
    [("echo", True), ("suffix", "!"), ("prompt_logprobs", 1), ("truncate_prompt_tokens", 4)],
)
def test_what_cannot_be_had_behind_a_prompt_is_refused(
    client: httpx2.Client, field: str, value: Any
) -> None:
    error = refusal(client, 400, model="reverse", prompt="x", **{field: value})
    assert error["param"] == field
    assert "leave it out" in error["message"]


@pytest.mark.parametrize("prompt", [None, 7, [], [[]], ["a", 1], {"text": "a"}, [True]])
def test_a_prompt_of_another_shape_is_refused(client: httpx2.Client, prompt: object) -> None:
    assert refusal(client, 400, model="reverse", prompt=prompt)["param"] == "prompt"


def test_a_token_outside_of_the_vocabulary_is_refused(client: httpx2.Client) -> None:
    for token in (75, -1, 10**30):
        error = refusal(client, 400, model="reverse", prompt=[1, token])
        assert f"the token id {token} is not one" in error["message"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(client: httpx2.Client, content: bytes) -> None:
    response = client.post(COMPLETIONS, content=content)
    assert response.status_code == 400
    assert "send" in response.json()["error"]["message"]


def test_a_request_without_a_model_is_told_which_there_are(client: httpx2.Client) -> None:
    assert "'shout@prod'" in refusal(client, 400, prompt="x")["message"]


def test_another_path_is_told_which_there_are(client: httpx2.Client) -> None:
    error = refusal(client, 404, "/v1/embeddings", model="reverse", input="x")
    assert "/v1/completions" in error["message"]
    assert client.get(COMPLETIONS).status_code == 405


def test_the_servers_own_refusal_comes_through(client: httpx2.Client) -> None:
    error = refusal(client, 400, model="reverse", prompt="x", temperature=-1)
    assert error["message"] == "temperature must be non-negative"


def test_a_chat_is_a_completion_of_its_template(
    server_url: str, chatting_base: ServedBase, shout: SoftPrompt
) -> None:
    attached = AttachedPrompts(chatting_base, policy="unchecked")
    attached.add(shout, name="shout")
    upstream = check_upstream(server_url, chatting_base, model=str(base_directory()))
    messages = [{"role": "user", "content": [{"type": "text", "text": "garden"}]}]
    with (
        running(make_app(upstream, attached)) as url,
        httpx2.Client(base_url=url, timeout=30) as client,
    ):
        ids = chatting_base.read("garden", add_special_tokens=False)
        said = ask(client, model="shout", prompt=ids)["choices"][0]["text"]
        answer = ask(client, CHAT, model="shout", messages=messages)
        pieces = stream(client, CHAT, model="shout", messages=messages)
        tooled = refusal(client, 400, CHAT, model="shout", messages=messages, tools=[{}])
        templates = [
            refusal(client, 400, CHAT, model="shout", messages=messages, **own)["param"]
            for own in ({"chat_template": "x"}, {"chat_template_kwargs": {"chat_template": "x"}})
        ]
        unlimited = client.post(CHAT, json={"model": "shout", "messages": messages})
    assert (answer["object"], answer["model"]) == ("chat.completion", "shout")
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": said}
    assert answer["id"] == "chatcmpl-0"
    assert pieces[0]["choices"][0]["delta"]["role"] == "assistant"
    assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"}
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == said
    assert tooled["param"] == "tools"
    assert templates == ["chat_template", "chat_template_kwargs"]
    assert unlimited.status_code == 200


@pytest.mark.parametrize(
    "messages",
    [None, [], "hello", [{"content": "x"}], [{"role": "user"}], [{"role": "user", "content": [7]}]],
)
def test_messages_of_another_shape_are_refused(
    server_url: str, chatting_base: ServedBase, shout: SoftPrompt, messages: Any
) -> None:
    attached = AttachedPrompts(chatting_base, policy="unchecked")
    attached.add(shout, name="shout")
    upstream = Upstream(url=server_url, model=BASE, window=128)
    with (
        running(make_app(upstream, attached)) as url,
        httpx2.Client(base_url=url, timeout=30) as client,
    ):
        error = refusal(client, 400, CHAT, model="shout", messages=messages)
    assert error["param"] == "messages"


def test_a_base_without_a_chat_template_is_said_to_have_none(client: httpx2.Client) -> None:
    error = refusal(client, 400, CHAT, model="reverse", messages=[{"role": "user", "content": "x"}])
    assert "has no chat template; ask /v1/completions" in error["message"]


def test_a_chat_with_the_bare_base_goes_through(client: httpx2.Client, server: SmallServer) -> None:
    messages = [{"role": "user", "content": "hello"}]
    answer = ask(client, CHAT, model=BASE, messages=messages, tools=[])
    assert answer["model"] == BASE
    assert answer["choices"][0]["message"]["content"] == "hello"
    assert server.seen[-1]["messages"] == messages


def test_a_key_goes_on_to_the_server_that_asks_for_it(
    upstream: Upstream, attached: AttachedPrompts
) -> None:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    async def guarded(request: Request) -> Response:
        return JSONResponse({"error": {"message": request.headers["authorization"]}}, 401)

    app = Starlette(routes=[Route(COMPLETIONS, guarded, methods=["POST"])])
    with running(app) as guard:
        locked = Upstream(url=guard, model=upstream.model, window=upstream.window)
        with running(make_app(locked, attached)) as url:
            response = httpx2.post(
                url + COMPLETIONS,
                json={"model": "reverse", "prompt": "x"},
                headers={"authorization": "Bearer sesame"},
            )
    assert response.status_code == 401
    assert response.json()["error"]["message"] == "Bearer sesame"


def test_a_server_that_is_gone_is_said_to_be(attached: AttachedPrompts) -> None:
    gone = Upstream(url="http://127.0.0.1:9", model=BASE, window=128)
    with running(make_app(gone, attached)) as url, httpx2.Client(base_url=url) as client:
        for name in ("reverse", BASE):
            error = refusal(client, 503, model=name, prompt="x")
            assert "http://127.0.0.1:9 does not answer" in error["message"]
            assert error["code"] == "upstream_unavailable"
        assert client.get("/health").status_code == 503
        assert client.get("/v1/models").status_code == 200


def test_a_server_exchanged_for_one_without_embeddings_is_a_bad_gateway(
    client: httpx2.Client, server: SmallServer
) -> None:
    server.takes_embeddings = False
    error = refusal(client, 502, model="reverse", prompt="x")
    assert "--enable-prompt-embeds" in error["message"]
    assert ask(client, model=BASE, prompt="garden")["model"] == BASE


def test_a_server_that_breaks_off_ends_the_stream_with_an_error(
    client: httpx2.Client, server: SmallServer
) -> None:
    server.breaks_off = True
    body = {"model": "reverse", "prompt": "garden", "max_tokens": 9, "stream": True}
    with client.stream("POST", COMPLETIONS, json=body) as response:
        lines = [line for line in response.iter_lines() if line]
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "upstream_unavailable"


def test_a_client_that_leaves_a_stream_is_told_to_the_server(
    client: httpx2.Client, server: SmallServer
) -> None:
    server.pauses = True
    body = {"model": "reverse", "prompt": "garden", "max_tokens": 9, "stream": True}
    with client.stream("POST", COMPLETIONS, json=body) as response:
        next(response.iter_lines())
        assert not server.left.is_set()
    assert server.left.wait(timeout=30)


def test_a_client_that_leaves_while_it_waits_is_told_to_the_server(
    attached: AttachedPrompts,
) -> None:
    import anyio
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    asked, left = threading.Event(), threading.Event()

    async def wait(request: Request) -> Response:
        await request.body()
        asked.set()
        with anyio.move_on_after(30):
            while (await request.receive())["type"] != "http.disconnect":
                pass
            left.set()
        return Response()

    app = Starlette(routes=[Route(COMPLETIONS, wait, methods=["POST"])])
    with running(app) as waiting:
        upstream = Upstream(url=waiting, model=BASE, window=128)
        with running(make_app(upstream, attached)) as url:
            connection = http.client.HTTPConnection(urlsplit(url).netloc)
            connection.request("POST", COMPLETIONS, json.dumps({"model": "reverse", "prompt": "x"}))
            assert asked.wait(timeout=30)
            connection.close()
            assert left.wait(timeout=30)


def test_a_prompt_is_not_named_as_the_base_is(
    upstream: Upstream, attached: AttachedPrompts
) -> None:
    with pytest.raises(ConflictError, match="--name"):
        make_app(upstream, attached, name="reverse")


def test_an_ensemble_is_not_served(
    client: httpx2.Client, attached: AttachedPrompts, shout: SoftPrompt, reverse: SoftPrompt
) -> None:
    both = ensemble_of(shout, reverse)
    attached.add(both, name="both")
    error = refusal(client, 400, model="both", prompt="x")
    assert "both is an ensemble" in error["message"]
    single = AttachedPrompts(attached.served, policy="unchecked", ensembles=False)
    with pytest.raises(AttachError, match=r"both is an ensemble.*VLLMEngine\.answer"):
        single.add(both, name="both")


def ensemble_of(*members: SoftPrompt) -> SoftPrompt:
    from promptreg.prompts import Method, Vote

    return SoftPrompt(
        method=Method.ENSEMBLE,
        tensors={
            f"members.{at}.{name}": tensor
            for at, member in enumerate(members)
            for name, tensor in member.tensors.items()
        },
        num_virtual_tokens=sum(member.num_virtual_tokens for member in members),
        token_dim=members[0].token_dim,
        task_type=members[0].task_type,
        members=tuple(f"words@{at + 1}" for at in range(len(members))),
        vote=Vote.MAJORITY,
    )
