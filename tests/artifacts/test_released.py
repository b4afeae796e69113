"""Files that a release wrote are read for ever."""

import json
from pathlib import Path

import numpy as np
import pytest

from artifacts.released import BARE, BASE, ENSEMBLE, HALF, PLAIN, PROMPTS, write_all
from promptreg import artifacts
from promptreg.artifacts import load_tensors
from promptreg.digests import Digest
from promptreg.manifests import read_manifest
from promptreg.prompts import Method

HERE = Path(__file__).parent
RELEASES = sorted(
    (path.name for path in HERE.iterdir() if path.name[0].isdigit()),
    key=lambda name: [int(part) for part in name.split(".")],
)


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> Path:
    return HERE / str(request.param)


def test_there_is_at_least_one_release() -> None:
    assert RELEASES


OWN_FORM = PROMPTS | {"ensemble": ENSEMBLE}


@pytest.mark.parametrize("name", PROMPTS)
class TestPeftDirectories:
    def test_its_peft_directory_is_read(self, release: Path, name: str) -> None:
        assert artifacts.read(release / "peft" / name) == PROMPTS[name]

    def test_its_peft_directory_is_read_without_our_sidecar(
        self, release: Path, name: str, tmp_path: Path
    ) -> None:
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (tmp_path / file).write_bytes((release / "peft" / name / file).read_bytes())
        found = artifacts.read(tmp_path)
        assert found.method == PROMPTS[name].method
        assert found.tensors == PROMPTS[name].tensors


@pytest.mark.parametrize("name", OWN_FORM)
class TestOurOwnForm:
    def test_a_directory_of_it_is_read(self, release: Path, name: str) -> None:
        assert artifacts.read(release / "safetensors" / name) == OWN_FORM[name]

    def test_its_two_objects_are_read(self, release: Path, name: str) -> None:
        data = (release / "safetensors" / name / "prompt.safetensors").read_bytes()
        manifest = (release / "safetensors" / name / "manifest.json").read_bytes()
        found = read_manifest(manifest, load_tensors(data))
        assert found.prompt == OWN_FORM[name]
        assert found.base == BASE.fingerprint
        assert (found.tensors, found.size) == (Digest.of(data), len(data))


def test_arrays_are_read(release: Path) -> None:
    assert artifacts.read(release / "npy" / "float32.npy") == PLAIN
    assert artifacts.read(release / "npy" / "float16.npy") == HALF


def test_a_bare_file_is_read(release: Path) -> None:
    assert artifacts.read(release / "bare" / "prompt.safetensors") == BARE


def test_a_prompt_table_is_what_it_was(release: Path) -> None:
    table = np.load(release / "tensorrt-llm" / "prompt_table.npy", allow_pickle=False)
    rows = np.frombuffer(PLAIN.tensors["prompt_embeddings"].data, "<f4").reshape(2, 4)
    assert (table == np.stack([rows, rows])).all()
    sidecar = json.loads((release / "tensorrt-llm" / "prompt_table.json").read_text())
    assert [(each["name"], each["num_virtual_tokens"]) for each in sidecar["tasks"]] == [
        ("sst2", 2),
        ("acme/mail", 2),
    ]


def test_what_is_written_now_is_what_the_last_release_wrote(tmp_path: Path) -> None:
    # Other bytes are another digest: a prompt pushed again would not be the one that is there.
    write_all(tmp_path / "now")
    kept = HERE / RELEASES[-1]
    names = {path.relative_to(kept) for path in kept.rglob("*") if path.is_file()}
    assert {
        path.relative_to(tmp_path / "now")
        for path in (tmp_path / "now").rglob("*")
        if path.is_file()
    } == names
    for name in names:
        assert (tmp_path / "now" / name).read_bytes() == (kept / name).read_bytes(), name


def test_every_method_is_kept() -> None:
    assert set(OWN_FORM) == {method.value for method in Method}
