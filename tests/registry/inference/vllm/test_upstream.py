import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from promptreg.errors import AttachError
from promptreg.inference.vllm import ServedBase, check_upstream
from promptreg_cli.demo import base_directory
from registry.inference.vllm.small_server import SmallServer, running


def other_base(directory: Path) -> Path:
    """Save the demo's base model with the rows of its embedding in another order."""
    target = directory / base_directory().name
    shutil.copytree(base_directory(), target)
    weights = load_file(target / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].roll(1, dims=0)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_server_of_this_base_is_found(server_url: str, base: ServedBase) -> None:
    upstream = check_upstream(f"{server_url}/v1/", base)
    assert upstream.url == server_url
    assert upstream.model == str(base_directory())
    assert upstream.window == 128


def test_a_server_on_another_machine_is_known_by_its_directorys_name(base: ServedBase) -> None:
    elsewhere = SmallServer(directory=base_directory(), root=f"/models/{base_directory().name}")
    with running(elsewhere.app) as url:
        assert check_upstream(url, base).model == elsewhere.root


def test_a_server_of_another_model_is_refused(base: ServedBase) -> None:
    other = SmallServer(directory=base_directory(), root="acme/other")
    with running(other.app) as url:
        with pytest.raises(AttachError, match=r"serves acme/other, and not .*--upstream-model"):
            check_upstream(url, base)
        assert check_upstream(url, base, model="acme/other").model == "acme/other"
        with pytest.raises(AttachError, match="and not acme/third"):
            check_upstream(url, base, model="acme/third")


def test_a_server_of_other_weights_under_the_right_name_is_refused(
    base: ServedBase, tmp_path: Path
) -> None:
    other = SmallServer(directory=other_base(tmp_path), root=f"/models/{base_directory().name}")
    with running(other.app) as url, pytest.raises(AttachError, match="is another base model"):
        check_upstream(url, base)


def test_a_server_that_takes_no_embeddings_is_told_how_to(
    server: SmallServer, server_url: str, base: ServedBase
) -> None:
    server.takes_embeddings = False
    with pytest.raises(
        AttachError, match=r"takes no prompts.*start it with --enable-prompt-embeds"
    ):
        check_upstream(server_url, base)


def test_no_server_is_told_how_to_start(base: ServedBase) -> None:
    with pytest.raises(AttachError, match=r"no vLLM server answers.*vllm serve"):
        check_upstream("http://127.0.0.1:9", base)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://"])
def test_an_address_that_is_none_is_refused(base: ServedBase, url: str) -> None:
    with pytest.raises(AttachError, match="no vLLM server answers"):
        check_upstream(url, base)


def test_what_is_no_vllm_server_is_said_to_be_none(server_url: str, base: ServedBase) -> None:
    with pytest.raises(AttachError, match="no vLLM server that generates"):
        check_upstream(f"{server_url}/elsewhere", base)
