import json
from pathlib import Path

import numpy as np
import pytest

from prompt_examples import prompt_of, soft_prompt, tensor, tuned_prompt
from promptreg import artifacts
from promptreg.errors import ConversionError, InvalidArtifactError
from promptreg.prompts import Method


def table_of(directory: Path) -> np.ndarray:
    table: np.ndarray = np.load(directory / "prompt_table.npy", allow_pickle=False)
    return table


def rows_of(prompt_tokens: int, seed: int) -> np.ndarray:
    return np.frombuffer(tensor(prompt_tokens, 8, seed=seed).data, "<f4").reshape(-1, 8)


def test_shorter_prompts_are_padded_with_zeros(tmp_path: Path) -> None:
    prompts = {"sst2": soft_prompt(3, 8, seed=1), "acme/mail-spam": soft_prompt(5, 8, seed=2)}
    assert artifacts.write_table(prompts, tmp_path / "t") == ()
    table = table_of(tmp_path / "t")
    assert table.shape == (2, 5, 8)
    assert table.dtype == np.dtype("<f4")
    assert (table[0, :3] == rows_of(3, 1)).all()
    assert not table[0, 3:].any()
    assert (table[1] == rows_of(5, 2)).all()


def test_the_true_lengths_and_the_names_stand_beside_the_table(tmp_path: Path) -> None:
    prompts = {"z": soft_prompt(3, 8), "a": soft_prompt(5, 8)}
    artifacts.write_table(prompts, tmp_path / "t")
    assert json.loads((tmp_path / "t" / "prompt_table.json").read_text()) == {
        "format": "promptreg.prompt-table/1",
        "table": "prompt_table.npy",
        "shape": [2, 5, 8],
        "tasks": [
            {"index": 0, "name": "z", "num_virtual_tokens": 3},
            {"index": 1, "name": "a", "num_virtual_tokens": 5},
        ],
    }


def test_one_prompt_is_a_table_of_one(tmp_path: Path) -> None:
    artifacts.write(soft_prompt(), tmp_path / "t", "tensorrt-llm", name="sst2")
    assert table_of(tmp_path / "t").shape == (1, 4, 8)
    sidecar = json.loads((tmp_path / "t" / "prompt_table.json").read_text())
    assert sidecar["tasks"][0]["name"] == "sst2"


def test_different_dtypes_meet_in_the_wider_one(tmp_path: Path) -> None:
    half = soft_prompt(tensors={"prompt_embeddings": tensor(4, 8, dtype="F16")})
    brain = soft_prompt(tensors={"prompt_embeddings": tensor(4, 8, dtype="BF16")})
    artifacts.write_table({"a": half, "b": half}, tmp_path / "half")
    assert table_of(tmp_path / "half").dtype == np.dtype("<f2")
    (note,) = artifacts.write_table({"a": half, "b": brain}, tmp_path / "both")
    assert table_of(tmp_path / "both").dtype == np.dtype("<f4")
    assert note.startswith("b: numpy has no bfloat16")


def test_what_is_left_out_is_said_of_each_prompt(tmp_path: Path) -> None:
    prompts = {
        "a": soft_prompt(template="{text}!"),
        "b": soft_prompt(labels=("x", "y")),
        "c": tuned_prompt(),
    }
    first, second, third = artifacts.write_table(prompts, tmp_path / "t")
    assert first == "a: a prompt table leaves out the template"
    assert second == "b: a prompt table leaves out the labels"
    assert third == "c: a prompt table leaves out the task embedding"


def test_prompts_of_different_widths_are_refused(tmp_path: Path) -> None:
    prompts = {"a": soft_prompt(4, 8), "b": soft_prompt(4, 16)}
    with pytest.raises(ConversionError, match="a is 8 wide, b is 16 wide"):
        artifacts.write_table(prompts, tmp_path / "t")


def test_a_table_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="there is no prompt"):
        artifacts.write_table({}, tmp_path / "t")


def test_a_prompt_that_is_more_than_rows_is_refused(tmp_path: Path) -> None:
    prompts = {"a": soft_prompt(), "b": prompt_of(Method.PREFIX_TUNING)}
    with pytest.raises(ConversionError, match="keys and values of every layer"):
        artifacts.write_table(prompts, tmp_path / "t")


def test_an_ensemble_is_refused_and_its_members_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"members instead \(sst2@3, sst2@5\)"):
        artifacts.write_table({"sst2": prompt_of(Method.ENSEMBLE)}, tmp_path / "t")
    assert not list(tmp_path.iterdir())


def test_a_table_is_recognised_and_not_read(tmp_path: Path) -> None:
    artifacts.write_table({"a": soft_prompt()}, tmp_path / "t")
    with pytest.raises(InvalidArtifactError, match="pull the prompts that"):
        artifacts.read(tmp_path / "t")
