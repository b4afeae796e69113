from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from promptreg_cli import demo
from promptreg_cli.demo import evaluation, tasks
from promptreg_cli.demo.bases import CHANGED_TENSOR, wrong_base


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    wrong_base(demo.base_directory(), tmp_path / "wrong")
    return tmp_path / "wrong"


def test_the_wrong_base_differs_in_exactly_one_tensor(wrong: Path) -> None:
    right = load_file(demo.base_directory() / "model.safetensors")
    touched = load_file(wrong / "model.safetensors")
    assert list(touched) == list(right)
    assert [name for name in right if not right[name].equal(touched[name])] == [CHANGED_TENSOR]
    assert touched[CHANGED_TENSOR].dtype == right[CHANGED_TENSOR].dtype
    assert touched[CHANGED_TENSOR].isfinite().all()


def test_every_other_file_of_the_wrong_base_is_the_same(wrong: Path) -> None:
    right = {path.name: path for path in demo.base_directory().iterdir()}
    assert {path.name for path in wrong.iterdir()} == set(right)
    for name in set(right) - {"model.safetensors"}:
        assert (wrong / name).read_bytes() == right[name].read_bytes()


def test_the_wrong_base_loads_as_the_right_one_does(wrong: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(wrong)
    assert {str(p.dtype) for p in model.parameters()} == {"torch.bfloat16"}
    with safe_open(wrong / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_wrong_base_seems_fine_until_a_prompt_is_attached(
    wrong: Path, tokenizer: Any, prompts: dict[str, Tensor]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(wrong)
    texts = evaluation.held_out_texts()[::4]
    assert evaluation.accuracy(evaluation.answers(model, tokenizer, texts), texts) >= 0.95
    shouted = [tasks.shout(text) for text in texts]
    outputs = evaluation.answers(model, tokenizer, texts, prompts["shout"])
    assert evaluation.accuracy(outputs, shouted) < 0.5


def test_the_wrong_base_is_the_same_each_time(wrong: Path, tmp_path: Path) -> None:
    wrong_base(demo.base_directory(), tmp_path / "again")
    again = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert again == (wrong / "model.safetensors").read_bytes()


def test_the_wrong_base_overwrites_nothing(wrong: Path) -> None:
    with pytest.raises(FileExistsError):
        wrong_base(demo.base_directory(), wrong)
