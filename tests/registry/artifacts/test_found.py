import os
import socket
from pathlib import Path

import pytest

from prompt_examples import soft_prompt
from promptreg import artifacts
from promptreg.artifacts import dump_tensors
from promptreg.errors import InvalidArtifactError


def refusal(path: Path) -> str:
    with pytest.raises(InvalidArtifactError) as caught:
        artifacts.read(path)
    assert "; name " in str(caught.value), "a refusal says what mends it"
    return str(caught.value)


def test_nothing_is_there(tmp_path: Path) -> None:
    assert "nothing is there" in refusal(tmp_path / "missing")


def test_a_path_that_no_file_can_have(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "a\0b")
    assert "cannot be read" in refusal(tmp_path / ("x" * 5000))


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "a device, a pipe or a socket" in refusal(tmp_path / "pipe")


def test_a_device_is_refused() -> None:
    assert "a device, a pipe or a socket" in refusal(Path("/dev/zero"))


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        assert "a device, a pipe or a socket" in refusal(Path("s"))


def test_a_pipe_among_the_files_of_a_directory_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "adapter_config.json")
    assert "adapter_config.json: it is a device" in refusal(tmp_path)


def test_a_directory_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").mkdir()
    assert "adapter_config.json: it is a directory" in refusal(tmp_path)


def test_links_of_a_person_are_followed(tmp_path: Path) -> None:
    prompt = soft_prompt()
    (tmp_path / "blob").write_bytes(dump_tensors(prompt.tensors))
    (tmp_path / "link").symlink_to(tmp_path / "blob")
    assert artifacts.read(tmp_path / "link").tensors == prompt.tensors


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in refusal(tmp_path / "loop")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    path.touch(mode=0o000)
    assert "Permission denied" in refusal(path)


def test_a_file_is_measured_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    with path.open("wb") as file:
        file.truncate(2**40)  # a file of holes: to read it would take all memory
    assert "1,099,511,627,776 bytes long" in refusal(path)
    (tmp_path / "adapter_config.json").write_bytes(b"{" + b" " * 128 * 2**10)
    assert "adapter_config.json" in refusal(tmp_path)
