import collections
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from prompt_examples import raw_safetensors, soft_prompt, tensor
from promptreg import artifacts
from promptreg.artifacts import dump_tensors
from promptreg.errors import PickleRefusedError, UnknownFormatError

CONFIG = '{"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "token_dim": 8}'
STATE = {"prompt_embeddings": torch.zeros(4, 8)}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (self.target, "w"))


def torch_bytes(*, zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(STATE, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def nemo_bytes() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("./model_config.yaml", "./model_weights.ckpt"):
            archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


PICKLES = {
    f"protocol {protocol} of {type(value).__name__}": pickle.dumps(value, protocol)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    for value in (
        {"prompt": [1.0, 2.0]},
        [1.0, 2.0],
        collections.OrderedDict(a=1),
        np.zeros((2, 2)),
        Bomb("x"),
    )
} | {
    "torch.save": torch_bytes(zipped=True),
    "torch.save in its old form": torch_bytes(zipped=False),
    "a NeMo archive": nemo_bytes(),
    "mkultra": b'{"metadata": {}, "tensor": "gASVRAAAAAAAAAA="}',
}
NAMES = ["adapter_model.bin", "prompt.pt", "prompt.safetensors", "prompt.npy", "prompt", "p.json"]


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_is_refused_whatever_its_name(tmp_path: Path, kind: str) -> None:
    for name in NAMES:
        path = tmp_path / name
        path.write_bytes(PICKLES[kind])
        with pytest.raises(PickleRefusedError, match="runs whatever code is in it") as caught:
            artifacts.read(path)
        assert "save_pretrained(..., safe_serialization=True)" in str(caught.value)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
@pytest.mark.parametrize("kind", PICKLES)
def test_a_peft_directory_of_a_pickle_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "adapter_config.json").write_text(CONFIG)
    (tmp_path / name).write_bytes(PICKLES[kind])
    with pytest.raises(PickleRefusedError, match=name):
        artifacts.read(tmp_path)


def test_nothing_is_unpickled_on_the_way_to_the_refusal(tmp_path: Path) -> None:
    target = tmp_path / "exploded"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"bomb{protocol}"
        path.write_bytes(pickle.dumps(Bomb(str(target)), protocol))
        with pytest.raises(PickleRefusedError):
            artifacts.read(path)
    np.save(tmp_path / "bomb.npy", np.array([[Bomb(str(target))]], dtype=object), allow_pickle=True)
    with pytest.raises(PickleRefusedError):
        artifacts.read(tmp_path / "bomb.npy")
    assert not target.exists()


def test_a_pickle_too_long_to_be_read_is_still_called_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    with path.open("wb") as file:
        file.write(b"\x80\x04")
        file.truncate(200 * 2**20)
    with pytest.raises(PickleRefusedError):
        artifacts.read(path)


def test_a_zip_of_something_else_is_no_pickle(tmp_path: Path) -> None:
    path = tmp_path / "prompt.zip"  # as KoboldAI writes it
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tensor.npy", b"")
    with pytest.raises(UnknownFormatError):
        artifacts.read(path)


def test_safetensors_in_a_file_named_bin_are_read(tmp_path: Path) -> None:
    prompt = soft_prompt()
    (tmp_path / "adapter_config.json").write_text(CONFIG)
    (tmp_path / "adapter_model.bin").write_bytes(dump_tensors(prompt.tensors))
    assert artifacts.read(tmp_path).tensors == prompt.tensors
    (tmp_path / "prompt.pkl").write_bytes(dump_tensors({"x": tensor(2, 3)}))
    assert artifacts.read(tmp_path / "prompt.pkl").num_virtual_tokens == 2


@pytest.mark.parametrize("second", [2, 3, 4, 5])
def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path: Path, second: int) -> None:
    length = 0x80 + 256 * second
    header = b'{"x":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'.ljust(length)
    path = tmp_path / "prompt.safetensors"
    path.write_bytes(raw_safetensors(header, bytes(24)))
    assert path.read_bytes()[:2] == bytes([0x80, second])
    assert artifacts.read(path).token_dim == 3
