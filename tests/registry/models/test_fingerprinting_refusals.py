import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from promptreg.errors import (
    AmbiguousWeightsError,
    BaseModelError,
    LossyBaseModelError,
    UnreadableBaseModelError,
)
from promptreg.models.fingerprinting import from_files, from_module
from registry.models.architectures import make
from registry.models.variants import Tensors, rewrite, save


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make("llama"), tmp_path_factory.mktemp("bases") / "llama")


@pytest.fixture
def copied(llama: Path, tmp_path: Path) -> Path:
    return rewrite(llama, tmp_path / "copied")


def refusal(directory: Path) -> BaseModelError:
    with pytest.raises(BaseModelError) as caught:
        from_files(directory, cache=False)
    assert str(caught.value).count("\n") == 0
    return caught.value


def test_a_directory_that_is_not_there_is_unreadable(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere")
    assert isinstance(error, UnreadableBaseModelError)
    assert "No such file" in str(error)


def test_a_file_is_no_directory(copied: Path) -> None:
    assert "Not a directory" in str(refusal(copied / "model.safetensors"))


def test_a_directory_without_a_config_is_unreadable(copied: Path) -> None:
    (copied / "config.json").unlink()
    assert "has no config.json" in str(refusal(copied))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model_type": 3}', "\xff", "[" * 100_000])
def test_a_config_that_is_none_is_unreadable(copied: Path, content: str) -> None:
    (copied / "config.json").write_text(content, "latin-1")
    assert "config.json" in str(refusal(copied))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("pytorch_model.bin", "a pickle"),
        ("pytorch_model-00001-of-00002.bin", "a pickle"),
        ("adapter_model.safetensors", "a PEFT adapter and no base model"),
        ("model-Q4_K_M.gguf", "quantised"),
        ("tf_model.h5", "another framework"),
        ("consolidated.safetensors", "does not load by itself"),
    ],
)
def test_other_weights_are_named_with_a_way_out(copied: Path, name: str, wanted: str) -> None:
    (copied / "model.safetensors").rename(copied / name)
    error = str(refusal(copied))
    assert f"there is no model.safetensors; found {name}" in error
    assert wanted in error


def test_no_weights_at_all_are_unreadable(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    assert "no model.safetensors and no model.safetensors.index.json" in str(refusal(copied))


def test_a_pickle_under_another_name_is_not_loaded(copied: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, copied / "model.safetensors")
    assert "a PyTorch pickle" in str(refusal(copied))
    (copied / "model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert "pickle" in str(refusal(copied))
    assert not (tmp_path / "exploded").exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kept", [0, 4, 7, 8, 300, -1, -1000])
def test_a_file_that_was_cut_short_is_unreadable(copied: Path, kept: int) -> None:
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    error = refusal(copied)
    assert isinstance(error, UnreadableBaseModelError)
    assert "cut short" in str(error) or "empty" in str(error)


def test_a_file_that_is_too_long_is_unreadable(copied: Path) -> None:
    with (copied / "model.safetensors").open("ab") as file:
        file.write(b"more")
    assert "bytes that its header does not name" in str(refusal(copied))


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ('"data_offsets":[0,', '"data_offsets":[4,', "a size that does not fit its shape"),
        ('"shape":[', '"shape":[1,', r"is \[1, 96, 32\], and its config.json wants \[96, 32\]"),
        ('"dtype":"F32"', '"dtype":"X32"', "does not describe"),
        ('"dtype":"F32"', '"dtype":{} ', "does not describe"),
        ('"shape":[', '"shape":[-', "does not fit its shape"),
        ('"shape":', '"shapo":', "does not describe"),
        ('"model.norm.weight"', '"lm_head.weight"   ', "names a tensor twice"),
        ("{", "[", "not JSON"),
    ],
)
def test_a_header_that_lies_is_unreadable(copied: Path, old: str, new: str, wanted: str) -> None:
    file = copied / "model.safetensors"
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = data[8:start].replace(old.encode(), new.encode(), 1)
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[start:])
    with pytest.raises(UnreadableBaseModelError, match=wanted):
        from_files(copied, cache=False)


def test_tensors_that_overlap_are_unreadable(copied: Path) -> None:
    file = copied / "model.safetensors"
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    norms = [key for key in header if key.endswith("layernorm.weight")]
    header[norms[0]]["data_offsets"] = header[norms[1]]["data_offsets"]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
    assert "a hole or an overlap" in str(refusal(copied))


def test_a_missing_shard_is_named(llama: Path, tmp_path: Path) -> None:
    sharded = rewrite(llama, tmp_path / "sharded", shards=3)
    (sharded / "part-1.safetensors").unlink()
    assert "names part-1.safetensors, which is not there" in str(refusal(sharded))


def test_a_shard_without_what_the_index_promises_is_named(llama: Path, tmp_path: Path) -> None:
    sharded = rewrite(llama, tmp_path / "sharded", shards=2)
    tensors = load_file(sharded / "part-0.safetensors")
    lost = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != lost}, sharded / "part-0.safetensors")
    assert f"says that part-0.safetensors holds {lost}, which it does not" in str(refusal(sharded))


def test_a_tensor_in_two_shards_is_refused(llama: Path, tmp_path: Path) -> None:
    sharded = rewrite(llama, tmp_path / "sharded", shards=2)
    both = load_file(sharded / "part-0.safetensors") | load_file(sharded / "part-1.safetensors")
    save_file(both, sharded / "part-1.safetensors")
    assert "and in another file too" in str(refusal(sharded))


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "..", "", 3])
def test_an_index_that_leads_out_of_the_directory_is_refused(copied: Path, name: object) -> None:
    (copied / "model.safetensors").rename(copied.parent / "model.safetensors")
    index = {"weight_map": {"lm_head.weight": name}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors.index.json" in str(refusal(copied))


def test_files_that_the_index_does_not_name_are_not_read(llama: Path, tmp_path: Path) -> None:
    sharded = rewrite(llama, tmp_path / "sharded", shards=2)
    (sharded / "extra.safetensors").write_bytes(b"nothing that anybody loads")
    expected = from_files(llama, cache=False).fingerprint
    assert from_files(sharded, cache=False).fingerprint == expected


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key not in names}


def test_missing_weights_are_named(llama: Path, tmp_path: Path) -> None:
    lost = ("model.norm.weight", "model.layers.0.mlp.up_proj.weight")
    error = refusal(rewrite(llama, tmp_path / "copied", without(*lost)))
    assert isinstance(error, UnreadableBaseModelError)
    assert all(name in str(error) for name in lost)


def test_a_missing_output_head_is_an_error_and_a_missing_classifier_is_not(
    llama: Path, tmp_path: Path
) -> None:
    assert "lm_head.weight" in str(
        refusal(rewrite(llama, tmp_path / "llama", without("lm_head.weight")))
    )
    bert = save(make("bert"), tmp_path / "bert")
    heads = (
        "classifier.weight",
        "classifier.bias",
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
    )
    headless = from_files(rewrite(bert, tmp_path / "headless", without(*heads)), cache=False)
    assert headless.head is None
    assert headless.body == from_files(bert, cache=False).body


def test_a_missing_expert_is_an_error(tmp_path: Path) -> None:
    mixtral = save(make("mixtral"), tmp_path / "mixtral")
    lost = "model.layers.1.block_sparse_moe.experts.2.w2.weight"
    error = refusal(rewrite(mixtral, tmp_path / "copied", without(lost)))
    assert "model.layers.1.mlp.experts.down_proj is [3, 32, 48]" in str(error)


def test_weights_that_the_architecture_does_not_use_are_not_dropped(
    llama: Path, tmp_path: Path
) -> None:
    extra = {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}
    error = refusal(rewrite(llama, tmp_path / "biased", lambda tensors: tensors | extra))
    assert isinstance(error, AmbiguousWeightsError)
    assert "model.layers.0.self_attn.q_proj.bias" in str(error)
    assert "from_module" in str(error)
    shallow = refusal(rewrite(llama, tmp_path / "shallow", num_hidden_layers=1))
    assert isinstance(shallow, AmbiguousWeightsError)


def test_two_tensors_for_one_weight_are_refused(tmp_path: Path) -> None:
    bert = save(make("bert"), tmp_path / "bert")
    twice = {"bert.embeddings.LayerNorm.gamma": torch.ones(32)}
    error = refusal(rewrite(bert, tmp_path / "twice", lambda tensors: tensors | twice))
    assert isinstance(error, AmbiguousWeightsError)
    assert "both become bert.embeddings.LayerNorm.weight" in str(error)
    mixtral = save(make("mixtral"), tmp_path / "mixtral")
    merged = {"model.layers.0.mlp.experts.down_proj": torch.ones(4, 32, 48)}
    error = refusal(rewrite(mixtral, tmp_path / "merged", lambda tensors: tensors | merged))
    assert "both become model.layers.0.mlp.experts.down_proj" in str(error)


def test_a_config_of_another_size_is_refused(llama: Path, tmp_path: Path) -> None:
    error = refusal(rewrite(llama, tmp_path / "copied", intermediate_size=40))
    assert "is [32, 48], and its config.json wants [32, 40]" in str(error)


@pytest.mark.parametrize("settings", [{"model_type": "unheard_of"}, {"hidden_act": "unheard_of"}])
def test_a_config_that_transformers_cannot_follow_is_unreadable(
    llama: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    assert isinstance(
        refusal(rewrite(llama, tmp_path / "copied", **settings)), UnreadableBaseModelError
    )


def test_an_architecture_that_is_not_known_is_read_as_a_backbone(
    llama: Path, tmp_path: Path
) -> None:
    unknown = rewrite(llama, tmp_path / "copied", architectures=["TFLlamaForCausalLM", "pipeline"])
    base = from_files(unknown, cache=False)
    assert base.architecture == "LlamaModel"
    assert base.body == from_files(llama, cache=False).body


def test_code_in_the_directory_is_not_run(llama: Path, tmp_path: Path) -> None:
    auto_map = {"AutoConfig": "bomb.BombConfig", "AutoModelForCausalLM": "bomb.BombForCausalLM"}
    copied = rewrite(llama, tmp_path / "own", model_type="bomb", auto_map=auto_map)
    (copied / "bomb.py").write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')")
    error = refusal(copied)
    assert isinstance(error, AmbiguousWeightsError)
    assert "from_module" in str(error)
    native = rewrite(llama, tmp_path / "native", auto_map=auto_map)
    (native / "bomb.py").write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')")
    assert from_files(native, cache=False).fingerprint == from_files(llama, cache=False).fingerprint
    assert not (tmp_path / "exploded").exists()
    assert "bomb" not in sys.modules


def test_weights_that_loading_would_round_are_ambiguous(llama: Path, tmp_path: Path) -> None:
    for dtype in ("bfloat16", "float16"):
        error = refusal(rewrite(llama, tmp_path / dtype, dtype=dtype))
        assert isinstance(error, AmbiguousWeightsError)
        assert "rounds it" in str(error)


def test_a_quantised_checkpoint_is_lossy(llama: Path, tmp_path: Path) -> None:
    quantisation = {"quant_method": "gptq", "bits": 4}
    error = refusal(rewrite(llama, tmp_path / "copied", quantization_config=quantisation))
    assert isinstance(error, LossyBaseModelError)
    assert "gptq" in str(error)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_packed_weights_are_lossy(llama: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    def pack(tensors: Tensors) -> Tensors:
        name = "model.layers.0.self_attn.q_proj.weight"
        return tensors | {name: tensors[name].to(dtype)}

    assert isinstance(refusal(rewrite(llama, tmp_path / "copied", pack)), LossyBaseModelError)


def live_refusal(model: object) -> BaseModelError:
    with pytest.raises(BaseModelError) as caught:
        from_module(model)
    assert str(caught.value).count("\n") == 0
    return caught.value


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), "a name", None])
def test_what_is_no_transformers_model_is_unreadable(model: object) -> None:
    assert "is no transformers model" in str(live_refusal(model))


def test_a_quantised_module_is_lossy() -> None:
    model: Any = make("llama")
    model.hf_quantizer = object()
    assert isinstance(live_refusal(model), LossyBaseModelError)
    model = make("llama")
    model.config.quantization_config = {"quant_method": "hqq"}
    assert isinstance(live_refusal(model), LossyBaseModelError)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning"
)
def test_torchs_own_quantisation_is_lossy() -> None:
    quantisation: Any = torch.ao.quantization
    quantised = quantisation.quantize_dynamic(make("llama"), {torch.nn.Linear})
    assert "Linear of torch.ao.nn.quantized" in str(live_refusal(quantised))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e5m2])
def test_packed_parameters_are_lossy(dtype: torch.dtype) -> None:
    model = make("llama")
    weight = model.get_parameter("model.norm.weight").to(dtype)
    model.get_submodule("model.norm").weight = torch.nn.Parameter(weight, requires_grad=False)
    error = live_refusal(model)
    assert isinstance(error, LossyBaseModelError)
    assert "model.norm.weight" in str(error)


def test_a_subclass_of_tensor_is_lossy() -> None:
    class Packed(torch.nn.Parameter):
        pass

    model: Any = make("llama")
    model.lm_head.weight = Packed(model.lm_head.weight.detach())
    assert "lm_head.weight is a Packed" in str(live_refusal(model))


def test_weights_on_the_meta_device_are_unreadable() -> None:
    with torch.device("meta"):
        model = make("llama")
    assert "meta device" in str(live_refusal(model))


def test_a_model_without_an_input_embedding_is_unreadable() -> None:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
    )
    assert isinstance(live_refusal(transformers.ViTModel(config)), UnreadableBaseModelError)
