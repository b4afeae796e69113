import json
from pathlib import Path

import pytest

from prompt_examples import base_model, prompt_of, soft_prompt, tensor, tuned_prompt
from promptreg import artifacts
from promptreg.artifacts import dump_tensors
from promptreg.digests import Digest
from promptreg.errors import InvalidArtifactError
from promptreg.manifests import manifest_bytes, read_manifest
from promptreg.prompts import Method, Placement, TaskType


@pytest.mark.parametrize("method", Method)
def test_every_method_is_read_back_whole_with_nothing_to_be_said(
    tmp_path: Path, method: Method
) -> None:
    prompt = prompt_of(
        method,
        template="{text} It was",
        labels=("bad", "good"),
        task_type=TaskType.CAUSAL_LM,
        init="text",
        hyperparameters={"lr": 0.3, "steps": 100, "tied": True, "optimizer": "adafactor"},
        source_format="peft",
        source_config={"peft_type": "PROMPT_TUNING", "nested": {"a": [1, None]}},
    )
    assert artifacts.write(prompt, tmp_path / "p", "safetensors", base=base_model()) == ()
    assert artifacts.read(tmp_path / "p") == prompt


def test_a_task_embedding_is_kept_and_read_back(tmp_path: Path) -> None:
    prompt = tuned_prompt(placement=Placement.AFTER_BOS, template="{text} It was")
    assert artifacts.write(prompt, tmp_path / "p", "safetensors") == ()
    assert artifacts.read(tmp_path / "p") == prompt


def test_a_task_embedding_is_read_from_the_tensors_alone(tmp_path: Path) -> None:
    path = tmp_path / "alone.safetensors"
    path.write_bytes(dump_tensors(tuned_prompt().tensors))
    found = artifacts.read(path)
    assert (found.method, found.tensors) == (Method.PROMPT_TUNING, tuned_prompt().tensors)


def test_its_two_files_are_the_two_objects_of_the_registry(tmp_path: Path) -> None:
    prompt, base = soft_prompt(placement=Placement.AFTER_BOS), base_model()
    artifacts.write(prompt, tmp_path / "p", "safetensors", base=base)
    tensors = (tmp_path / "p" / "prompt.safetensors").read_bytes()
    manifest = (tmp_path / "p" / "manifest.json").read_bytes()
    assert tensors == dump_tensors(prompt.tensors)
    assert manifest == manifest_bytes(
        prompt, base=base.fingerprint, tensors=Digest.of(tensors), size=len(tensors)
    )
    assert read_manifest(manifest, prompt.tensors).base == base.fingerprint


def test_without_a_base_at_hand_none_is_named(tmp_path: Path) -> None:
    artifacts.write(soft_prompt(), tmp_path / "p", "safetensors")
    assert json.loads((tmp_path / "p" / "manifest.json").read_text())["base"] is None


def test_tensors_that_were_swapped_are_refused(tmp_path: Path) -> None:
    artifacts.write(soft_prompt(), tmp_path / "p", "safetensors")
    data = dump_tensors({"prompt_embeddings": tensor(4, 8, seed=9)})
    (tmp_path / "p" / "prompt.safetensors").write_bytes(data)
    with pytest.raises(InvalidArtifactError, match=r"prompt\.safetensors: its bytes are not those"):
        artifacts.read(tmp_path / "p")


def test_one_flipped_bit_is_refused(tmp_path: Path) -> None:
    artifacts.write(soft_prompt(), tmp_path / "p", "safetensors")
    path = tmp_path / "p" / "prompt.safetensors"
    data = bytearray(path.read_bytes())
    for at in range(len(data)):
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(InvalidArtifactError):
            artifacts.read(tmp_path / "p")
        data[at] ^= 1


def test_a_manifest_that_is_broken_is_refused_by_its_path(tmp_path: Path) -> None:
    artifacts.write(soft_prompt(), tmp_path / "p", "safetensors")
    (tmp_path / "p" / "manifest.json").write_text("{")
    with pytest.raises(InvalidArtifactError, match=r"p/manifest\.json: it is not JSON"):
        artifacts.read(tmp_path / "p")
