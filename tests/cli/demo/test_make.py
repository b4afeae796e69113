from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from promptreg_cli import demo
from promptreg_cli.demo import make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made")
    result = CliRunner().invoke(make.main, ["--quick", "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out


def test_make_writes_the_files_that_are_shipped(made: Path) -> None:
    shipped = demo.data_directory()
    assert _files(made) == _files(shipped)


def test_make_writes_a_base_that_loads(made: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(made / "base")
    tokenizer = AutoTokenizer.from_pretrained(made / "base")
    assert model.config.vocab_size == len(tokenizer)


def test_make_writes_a_base_of_the_shipped_shapes(made: Path) -> None:
    quick = load_file(made / "base" / "model.safetensors")
    shipped = load_file(demo.base_directory() / "model.safetensors")
    assert {n: t.shape for n, t in quick.items()} == {n: t.shape for n, t in shipped.items()}


@pytest.mark.parametrize("name", demo.PROMPTS)
def test_training_a_prompt_moves_it(name: str, made: Path) -> None:
    file = made / "prompts" / name / "adapter_model.safetensors"
    prompt = load_file(file)["prompt_embeddings"]
    vocabulary = load_file(made / "base" / "model.safetensors")["model.embed_tokens.weight"]
    rows = {tuple(row.tolist()) for row in vocabulary.float()}
    assert prompt.isfinite().all()
    assert not any(tuple(row.tolist()) in rows for row in prompt)


def test_the_same_seed_makes_the_same_bytes(made: Path, tmp_path: Path) -> None:
    make.make(tmp_path, make.Recipe.full(seed=0).quick())
    for name in _files(made):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes(), name


def _files(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
