"""Base models that are the same as another one, and base models that are not, for the tests of fingerprints."""

import copy
import itertools
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from promptreg.bases import BaseModel
from promptreg.models.fingerprinting import from_files, from_module
from registry.models.architectures import ARCHITECTURES, make

__all__ = ["equivalents", "load", "lora", "rewrite", "save", "wrong_files", "wrong_modules"]

Tensors = dict[str, torch.Tensor]
Variants = Iterator[tuple[str, BaseModel]]

_TASKS = {"encoder-decoder": "SEQ_2_SEQ_LM", "encoder": "SEQ_CLS", "causal": "CAUSAL_LM"}
_QUERIES = {"gpt2": "c_attn", "t5": "q", "bert": "query"}
_BUFFERS_OF_OLD = {
    "gpt2": {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 128, 128),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
    },
    "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    "gemma3": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    "qwen3": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    "mixtral": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    "bert": {"bert.embeddings.position_ids": torch.arange(128)[None]},
}


def save(model: PreTrainedModel, folder: Path) -> Path:
    """Save ``model`` as a user does."""
    model.save_pretrained(folder)
    return folder


def load(
    name: str, saved: Path, kind: str | None = None, dtype: torch.dtype | str = "auto"
) -> PreTrainedModel:
    """Load the model ``name`` as a user does, as the class ``kind`` if there is one."""
    build = getattr(transformers, kind or ARCHITECTURES[name].model)
    model: PreTrainedModel = build.from_pretrained(saved, dtype=dtype)
    return model


def lora(name: str, model: PreTrainedModel) -> torch.nn.Module:
    """Put LoRA on the queries of ``model``."""
    config = peft.LoraConfig(
        task_type=_TASKS[ARCHITECTURES[name].kind],
        target_modules=[_QUERIES.get(name, "q_proj")],
        fan_in_fan_out=name == "gpt2",
        init_lora_weights=False,
    )
    adapted: torch.nn.Module = peft.get_peft_model(model, config)
    return adapted


def rewrite(
    source: Path,
    target: Path,
    change: Callable[[Tensors], Tensors] = dict,
    *,
    shards: int = 1,
    metadata: dict[str, str] | None = None,
    **settings: object,
) -> Path:
    """Write what is in ``source`` to ``target`` by hand, with other tensors, files, or settings."""
    shutil.copytree(source, target)
    (target / "model.safetensors").unlink()
    tensors = {
        key: value.contiguous()
        for key, value in change(load_file(source / "model.safetensors")).items()
    }
    if shards == 1:
        save_file(tensors, target / "model.safetensors", metadata)
    else:
        weight_map = {
            key: f"part-{place % shards}.safetensors" for place, key in enumerate(tensors)
        }
        for file in set(weight_map.values()):
            held = {key: tensors[key] for key in tensors if weight_map[key] == file}
            save_file(held, target / file, metadata)
        index = {"metadata": {}, "weight_map": weight_map}
        (target / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((target / "config.json").read_text()) | settings
    (target / "config.json").write_text(json.dumps(dict(reversed(config.items()))))
    return target


def equivalents(name: str, saved: Path, folder: Path) -> Variants:
    """Yield the base model ``name`` in other files and other hands; ``saved`` holds it in bfloat16."""
    yield from _same_files(name, saved, folder)
    yield from _same_modules(name, saved)


def wrong_modules(name: str) -> Variants:
    """Yield modules that differ from the model ``name`` in float32: each by a little, or by all."""
    model: Any = make(name)
    for label in _disturb({key: weight.data for key, weight in model.named_parameters()}):
        yield label, from_module(model, cache=False)
    for dtype in (torch.bfloat16, torch.float16):
        yield f"cast to {dtype}", from_module(torch.nn.Module.to(make(name), dtype), cache=False)
    for seed in (1, 2, 3):
        yield f"another revision ({seed})", from_module(make(name, seed=seed), cache=False)
    for size in (88, 104):
        model.resize_token_embeddings(size, mean_resizing=False)
        yield f"a vocabulary of {size}", from_module(model, cache=False)
    merged: Any = lora(name, make(name))
    yield "with LoRA merged into it", from_module(merged.merge_and_unload(), cache=False)


def _disturb(weights: Tensors) -> Iterator[str]:
    """Change the weights in place, a little each time, and yield what was done; then restore them."""
    for label, tensor in weights.items():
        with _restored(tensor):
            bits = tensor.view(-1).view(torch.int32)
            bits[bits.numel() // 3] ^= 1
            yield f"one bit of {label}"
        if tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1]:
            with _restored(tensor):
                tensor.copy_(tensor.clone().T)
                yield f"{label} transposed"
    for (label, one), (other, two) in itertools.combinations(weights.items(), 2):
        if one.shape == two.shape:
            with _restored(one, two):
                _exchange(one, two)
                yield f"{label} and {other} swapped"
    for layers, pairs in _pairs_of_layers(weights):
        with _restored(*itertools.chain(*pairs)):
            for one, two in pairs:
                _exchange(one, two)
            yield f"{layers} swapped"


def wrong_files(name: str, saved: Path, folder: Path) -> Variants:
    """Yield directories that differ from ``saved``, the model ``name``, in one bit of one tensor."""
    file = rewrite(saved, folder / name) / "model.safetensors"
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        place = start + (begin + end) // 2
        data[place] ^= 0b1000
        file.write_bytes(data)
        yield f"one bit of {key}", from_files(folder / name, cache=False)
        data[place] ^= 0b1000


def _same_files(name: str, saved: Path, folder: Path) -> Variants:
    def read(
        label: str, change: Callable[[Tensors], Tensors] = dict, **options: Any
    ) -> tuple[str, BaseModel]:
        target = rewrite(saved, folder / label.replace(" ", "-"), change, **options)
        return label, from_files(target, cache=False)

    loaded = load(name, saved)
    yield "saved again", from_files(save(loaded, folder / "again"), cache=False)
    loaded.save_pretrained(folder / "small", max_shard_size="20KB")
    yield "in small shards", from_files(folder / "small", cache=False)
    yield read("other metadata", metadata={"made": "by hand"}, transformers_version="4.0.0")
    yield read("reversed order", lambda tensors: dict(reversed(tensors.items())))
    yield read("three shards", shards=3)
    yield read("shuffled shards", _shuffled, shards=4)
    yield read("stored as float32", lambda t: {k: v.float() for k, v in t.items()}, dtype="float32")
    yield read("without a dtype", dtype=None)
    yield read("names of the installed release", lambda _: _own_names(loaded))
    prefix = f"{loaded.base_model_prefix}."
    if any(key.startswith(prefix) for key in loaded.state_dict()):
        yield read(
            "without the prefix", lambda t: {k.removeprefix(prefix): v for k, v in t.items()}
        )
    if copies := _tied_copies(loaded):
        yield read("tied weights stored twice", lambda tensors: tensors | copies)
        yield read("only the copies of tied weights", lambda tensors: _swap_ties(loaded, tensors))
    if name in _BUFFERS_OF_OLD:
        yield read("with buffers of old", lambda tensors: tensors | _BUFFERS_OF_OLD[name])
    if name == "bert":
        yield read("gamma and beta", _gamma_and_beta)
        yield read(
            "head of its pre-training", lambda t: t | {"cls.seq_relationship.bias": torch.ones(2)}
        )
    if ARCHITECTURES[name].tied:
        backbone = save(load(name, saved, ARCHITECTURES[name].backbone), folder / "backbone")
        yield "saved as a backbone", from_files(backbone, cache=False)


def _same_modules(name: str, saved: Path) -> Variants:
    yield "loaded", from_module(load(name, saved))
    for dtype in (torch.float32, torch.float64):
        yield f"loaded in {dtype}", from_module(load(name, saved, dtype=dtype))
    yield "compiled", from_module(_compiled(load(name, saved)))
    yield "in a data-parallel wrapper", from_module(torch.nn.DataParallel(load(name, saved)))
    yield "in two wrappers", from_module(torch.nn.DataParallel(_compiled(load(name, saved))))
    yield "frozen", from_module(load(name, saved).requires_grad_(requires_grad=False))
    yield "copied", from_module(copy.deepcopy(load(name, saved)))
    yield "laid out in columns", from_module(_in_columns(load(name, saved)))
    yield "with modules compiled", from_module(_with_compiled_modules(load(name, saved)))
    task = _TASKS[ARCHITECTURES[name].kind]
    virtual = peft.PromptTuningConfig(task_type=task, num_virtual_tokens=4)
    yield "prompt-tuned", from_module(peft.get_peft_model(load(name, saved), virtual))
    adapted = lora(name, load(name, saved))
    yield "under LoRA", from_module(adapted)
    yield "under LoRA in wrappers", from_module(torch.nn.DataParallel(_compiled(adapted)))
    if ARCHITECTURES[name].tied:
        yield "loaded as a backbone", from_module(load(name, saved, ARCHITECTURES[name].backbone))
        model: Any = load(name, saved)
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        yield "untied in memory", from_module(model)


def _shuffled(tensors: Tensors) -> Tensors:
    return dict(random.Random(0).sample(sorted(tensors.items()), len(tensors)))


def _own_names(model: PreTrainedModel) -> Tensors:
    """Return the weights as the installed transformers calls them in memory: experts are one tensor."""
    return {key: value.data.clone() for key, value in model.named_parameters()}


def _tied_copies(model: PreTrainedModel) -> Tensors:
    held = model.state_dict()
    return {name: held[source].clone() for name, source in model.all_tied_weights_keys.items()}


def _swap_ties(model: PreTrainedModel, tensors: Tensors) -> Tensors:
    """Leave out what other weights are tied to, and store the others instead."""
    sources = set(model.all_tied_weights_keys.values())
    return {k: v for k, v in (tensors | _tied_copies(model)).items() if k not in sources}


def _gamma_and_beta(tensors: Tensors) -> Tensors:
    def old(key: str) -> str:
        key = key.replace("LayerNorm.weight", "LayerNorm.gamma")
        return key.replace("LayerNorm.bias", "LayerNorm.beta")

    return {old(key): value for key, value in tensors.items()}


def _in_columns(model: PreTrainedModel) -> PreTrainedModel:
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data = parameter.data.T.contiguous().T
    return model


def _compiled(module: torch.nn.Module) -> torch.nn.Module:
    """Wrap ``module`` as torch.compile does; nothing is compiled before it is called."""
    wrapped: Any = torch.compile(module, backend="eager")
    return wrapped  # type: ignore[no-any-return]


def _with_compiled_modules(model: PreTrainedModel) -> PreTrainedModel:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear | torch.nn.ModuleList):
                setattr(module, name, _compiled(child))
    return model


def _pairs_of_layers(
    weights: Tensors,
) -> Iterator[tuple[str, list[tuple[torch.Tensor, torch.Tensor]]]]:
    """Yield every two layers of one stack, with the weights that have the same place in both."""
    stacks: dict[str, dict[str, Tensors]] = {}
    for label, tensor in weights.items():
        if found := re.match(r"(.*?\.(?:h|layers?|block))\.(\d+)\.(.*)", label):
            stacks.setdefault(found[1], {}).setdefault(found[2], {})[found[3]] = tensor
    for stack, layers in stacks.items():
        for (first, ones), (second, twos) in itertools.combinations(layers.items(), 2):
            both = [(ones[key], twos[key]) for key in ones.keys() & twos.keys()]
            yield f"{stack} {first} and {second}", both


def _exchange(one: torch.Tensor, two: torch.Tensor) -> None:
    kept = one.clone()
    one.copy_(two)
    two.copy_(kept)


@contextmanager
def _restored(*tensors: torch.Tensor) -> Iterator[None]:
    kept = [tensor.clone() for tensor in tensors]
    yield
    for tensor, value in zip(tensors, kept, strict=True):
        tensor.copy_(value)
