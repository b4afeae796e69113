from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from promptreg.errors import UnreadableBaseModelError
from promptreg.inference.vllm import load_input_embedding
from promptreg.models import from_files
from registry.models.architectures import ARCHITECTURES, VOCAB_SIZE, make

CAUSAL = [name for name, each in ARCHITECTURES.items() if each.kind == "causal"]
IDS = torch.arange(VOCAB_SIZE)


def loaded(directory: Path, **settings: Any) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, **settings)
    return model


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CAUSAL)
def test_it_embeds_as_the_loaded_model_does(
    name: str, dtype: torch.dtype | None, tmp_path: Path
) -> None:
    make(name, dtype=torch.bfloat16).save_pretrained(tmp_path)
    settings = {} if dtype is None else {"dtype": dtype}
    expected = loaded(tmp_path, **settings).get_input_embeddings()(IDS)
    embedding = load_input_embedding(tmp_path, dtype=dtype)
    assert embedding(IDS).dtype == expected.dtype
    assert torch.equal(embedding(IDS), expected)


@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_an_embedding_in_one_of_many_files_is_found(name: str, tmp_path: Path) -> None:
    model = make(name)
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(load_input_embedding(tmp_path)(IDS), model.get_input_embeddings()(IDS))


def test_two_embeddings_of_one_architecture_are_two(tmp_path: Path) -> None:
    models = [make("gemma3", seed=seed) for seed in (0, 1)]
    for seed, model in enumerate(models):
        model.save_pretrained(tmp_path / str(seed))
    embeddings = [load_input_embedding(tmp_path / str(seed)) for seed in (0, 1)]
    for model, embedding in zip(models, embeddings, strict=True):
        assert torch.equal(embedding(IDS), model.get_input_embeddings()(IDS))


def test_it_outlives_the_file_that_it_was_read_from(tmp_path: Path) -> None:
    model = make("llama")
    model.save_pretrained(tmp_path)
    embedding = load_input_embedding(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    assert torch.equal(embedding(IDS), model.get_input_embeddings()(IDS))


def test_the_fingerprint_is_the_same_before_and_after(tmp_path: Path) -> None:
    make("gemma3").save_pretrained(tmp_path)
    before = from_files(tmp_path, cache=False)
    load_input_embedding(tmp_path)
    assert from_files(tmp_path, cache=False) == before


def test_it_is_frozen(tmp_path: Path) -> None:
    make("llama").save_pretrained(tmp_path)
    embedding = load_input_embedding(tmp_path)
    assert not embedding.training
    assert not any(parameter.requires_grad for parameter in embedding.parameters())


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    make("llama").config.save_pretrained(tmp_path)
    with pytest.raises(UnreadableBaseModelError, match=r"no model\.safetensors"):
        load_input_embedding(tmp_path)


def test_an_embedding_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make("llama").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.embed_tokens.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnreadableBaseModelError, match=r"embed_tokens\.weight"):
        load_input_embedding(tmp_path)


def test_a_model_without_an_input_embedding_is_refused(tmp_path: Path) -> None:
    from transformers import CanineConfig, CanineModel

    config = CanineConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_hash_buckets=8
    )
    CanineModel(config).save_pretrained(tmp_path)
    with pytest.raises(UnreadableBaseModelError, match="has no input embedding"):
        load_input_embedding(tmp_path)
