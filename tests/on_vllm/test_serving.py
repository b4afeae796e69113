"""The front before the real vLLM server, as the command starts it."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import promptreg
from on_vllm.conftest import ARGUMENTS, DTYPE, environment
from promptreg.errors import AttachError
from promptreg.inference.vllm import (
    AttachedPrompts,
    ServedBase,
    ServerProcess,
    Upstream,
    check_upstream,
    make_app,
)
from promptreg.registry import Registry
from real.bbc import TEMPLATE, read_split
from real.training import SEED
from registry.inference.vllm.small_server import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

NEW = 12
COMPLETIONS = "/v1/completions"


@contextmanager
def served(base: Path, places: dict[str, str], *words: str) -> "Iterator[httpx2.Client]":
    """Run ``promptreg serve-vllm`` and yield a client of it."""
    import httpx2

    command = [
        *(sys.executable, "-m", "promptreg_cli", "serve-vllm", "--base", str(base)),
        *("--dtype", DTYPE, "--port", "0"),
        *("--prompt", "topic@prod", "--prompt", "story@1", *words),
    ]
    with subprocess.Popen(
        command, env=environment(places), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if line.startswith("served at "):
                    break
            else:
                pytest.fail(f"it did not start: {''.join(said)}")
            url = said[-1].split()[2].rstrip(",").removesuffix("/v1")
            with httpx2.Client(base_url=url, timeout=120) as client:
                yield client
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def client(
    base: Path, registry: Registry, registry_places: dict[str, str], server: ServerProcess
) -> "Iterator[httpx2.Client]":
    assert registry
    with served(base, registry_places, "--upstream", server.url) as connected:
        yield connected


def test_a_completion_is_what_the_prompt_says_in_process(
    client: "httpx2.Client", model: Any, registry: Registry
) -> None:
    texts = [article.text for article in read_split(test=25, seed=SEED).test[:4]]
    body = {"model": "topic@prod", "prompt": texts, "max_tokens": NEW, "temperature": 0}
    answer = client.post(COMPLETIONS, json=body).json()
    assert answer["model"] == "topic@prod"
    with promptreg.attach(model, registry.pull("topic@prod")) as prompted:
        tokenizer: Any = prompted.tokenizer
        for text, choice in zip(texts, answer["choices"], strict=True):
            filled = text.join(TEMPLATE.split("{text}"))
            ids = tokenizer(filled, return_tensors="pt").input_ids
            output = prompted.generate(ids, max_new_tokens=NEW, do_sample=False)
            new = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
            assert choice["text"] == new


def test_the_models_are_the_base_and_the_prompts(client: "httpx2.Client") -> None:
    listed = client.get("/v1/models").json()["data"]
    names = [entry["id"] for entry in listed]
    assert names == ["gemma-3-270m", "topic@prod", "story@1"]
    assert listed[1]["root"] == "topic@1"
    assert client.get("/health").json() == {"status": "ok"}


def test_a_stream_is_the_answer_in_pieces(client: "httpx2.Client") -> None:
    body = {"prompt": "The capital of France is", "max_tokens": NEW, "temperature": 0}
    for name in ("story@1", "gemma-3-270m"):
        whole = client.post(COMPLETIONS, json={**body, "model": name}).json()["choices"][0]["text"]
        pieces = stream(client, COMPLETIONS, {**body, "model": name})
        assert {piece["model"] for piece in pieces} == {name}
        assert "".join(piece["choices"][0]["text"] for piece in pieces) == whole
        assert len(pieces) > 1


def stream(client: "httpx2.Client", path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with client.stream("POST", path, json={**body, "stream": True}) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_the_bare_base_is_there_under_its_own_name(client: "httpx2.Client") -> None:
    body = {"prompt": "The capital of France is", "max_tokens": NEW, "temperature": 0}
    answer = client.post(COMPLETIONS, json={**body, "model": "gemma-3-270m"}).json()
    with_prompt = client.post(COMPLETIONS, json={**body, "model": "story@1"}).json()
    assert answer["model"] == "gemma-3-270m"
    assert answer["choices"][0]["text"] != with_prompt["choices"][0]["text"]


def test_a_chat_is_a_completion_of_the_bases_template(client: "httpx2.Client") -> None:
    messages = [{"role": "user", "content": "Tell me a story"}]
    settings = {"model": "story@1", "max_tokens": NEW, "temperature": 0}
    answer = client.post("/v1/chat/completions", json={**settings, "messages": messages}).json()
    pieces = stream(client, "/v1/chat/completions", {**settings, "messages": messages})
    said = answer["choices"][0]["message"]
    assert (answer["object"], answer["model"]) == ("chat.completion", "story@1")
    assert said["role"] == "assistant"
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == said["content"]
    bare = client.post(
        "/v1/chat/completions", json={**settings, "model": "gemma-3-270m", "messages": messages}
    ).json()
    assert (bare["object"], bare["model"]) == ("chat.completion", "gemma-3-270m")


def test_an_unknown_name_is_told_which_there_are(client: "httpx2.Client") -> None:
    response = client.post(COMPLETIONS, json={"model": "spam@prod", "prompt": "x"})
    assert response.status_code == 404
    assert "there is gemma-3-270m, topic@prod, story@1" in response.json()["error"]["message"]


def test_a_text_that_is_too_long_is_told_how_much_fits(client: "httpx2.Client") -> None:
    response = client.post(COMPLETIONS, json={"model": "topic@prod", "prompt": "word " * 600})
    assert response.status_code == 400
    assert "480 fit into the window of 512" in response.json()["error"]["message"]


def test_what_vllm_refuses_comes_through(client: "httpx2.Client") -> None:
    body = {"model": "topic@prod", "prompt": "x", "temperature": -1}
    response = client.post(COMPLETIONS, json=body)
    assert response.status_code == 400
    assert "temperature" in response.json()["error"]["message"]


def test_an_alias_that_moves_is_followed(client: "httpx2.Client", registry: Registry) -> None:
    def root() -> str:
        entries = client.get("/v1/models").json()["data"]
        return next(str(entry["root"]) for entry in entries if entry["id"] == "topic@prod")

    assert root() == "topic@1"
    registry.set_alias("topic@2", "prod")
    wait_until(lambda: root() == "topic@2")
    registry.set_alias("topic@1", "prod")
    wait_until(lambda: root() == "topic@1")


def wait_until(condition: Any, seconds: float = 60) -> None:
    import time

    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.2)


def test_the_command_starts_a_server_of_its_own_and_ends_it(
    base: Path, registry: Registry, registry_places: dict[str, str]
) -> None:
    assert registry
    with served(base, registry_places, "--name", "gemma", "--", *ARGUMENTS) as client:
        names = [entry["id"] for entry in client.get("/v1/models").json()["data"]]
        assert names == ["gemma", "topic@prod", "story@1"]
        body = {"model": "topic@prod", "prompt": "x", "max_tokens": 2}
        assert client.post(COMPLETIONS, json=body).status_code == 200
    left = [line for line in processes() if str(base) in line and "api_server" in line]
    assert len(left) <= 1  # the one of the fixture


def processes() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue  # it ended meanwhile
    return found


def test_a_server_without_the_flag_or_gone_is_said_to_be(base: Path, registry: Registry) -> None:
    import httpx2

    plain = ServedBase.open(base, dtype=DTYPE)
    attached = AttachedPrompts(plain)
    attached.add(registry.pull("topic@prod"), name="topic@prod")
    body = {"model": "topic@prod", "prompt": "x"}
    with ServerProcess(plain, ("--no-enable-prompt-embeds", *ARGUMENTS)) as server:
        server.wait()
        with pytest.raises(AttachError, match=r"start it with --enable-prompt-embeds"):
            check_upstream(server.url, plain)
        app = make_app(Upstream(url=server.url, model=str(base), window=512), attached)
        with running(app) as url:
            unfit = httpx2.post(url + COMPLETIONS, json=body)
            server.close()
            gone = httpx2.post(url + COMPLETIONS, json=body)
    assert unfit.status_code == 502
    assert "--enable-prompt-embeds" in unfit.json()["error"]["message"]
    assert gone.status_code == 503
    assert "start it again" in gone.json()["error"]["message"]


def test_a_server_that_does_not_start_says_why(base: Path) -> None:
    served_base = ServedBase.open(base, dtype=DTYPE)
    with ServerProcess(served_base, ("--max-model-len", "many")) as server:
        with pytest.raises(AttachError, match=r"(?s)ended with status 2.*--max-model-len"):
            server.wait()
        assert server.log.exists()
    assert not server.log.exists()
