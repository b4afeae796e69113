import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from promptreg.bases import BaseModel
from promptreg.models import remembered_files
from promptreg.models.fingerprinting import from_files, from_module
from registry.models.architectures import make
from registry.models.variants import lora, save

REMEMBERED_ONLY = """
import sys
from promptreg.models.fingerprinting import from_files
print(from_files(sys.argv[1]).fingerprint)
assert not {"torch", "transformers", "numpy"} & sys.modules.keys()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPTREG_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fingerprints"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return aged(save(make("qwen3"), tmp_path / "saved"))


def aged(directory: Path) -> Path:
    """Wait until a write to ``directory`` would show in its stamps."""
    while not remembered_files.DirectoryState.of(directory).settled:
        time.sleep(0.001)
    return directory


def was_read(directory: Path) -> bool:
    """Return whether fingerprinting ``directory`` reads its weights."""
    told: list[int] = []
    from_files(directory, progress=lambda done, _total: told.append(done))
    return bool(told)


def test_an_unchanged_directory_is_not_read_again(saved: Path) -> None:
    first = from_files(saved, name="first")
    assert not was_read(saved)
    second = from_files(saved, name="second")
    assert (first.name, second.name) == ("first", "second")
    assert second == BaseModel(
        **{field: getattr(first, field) for field in first.__slots__} | {"name": "second"}
    )
    assert second.table == first.table


def test_what_is_remembered_needs_no_torch(saved: Path) -> None:
    known = from_files(saved)
    command = [sys.executable, "-c", REMEMBERED_ONLY, str(saved)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == str(known.fingerprint)


def test_one_flipped_bit_is_seen_though_size_and_mtime_stay(saved: Path) -> None:
    known = from_files(saved)
    file = saved / "model.safetensors"
    stamp = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert from_files(saved).fingerprint != known.fingerprint


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_was_replaced_is_seen(saved: Path, name: str) -> None:
    from_files(saved)
    shutil.copy2(saved / name, saved / "copy")
    os.replace(saved / "copy", saved / name)  # noqa: PTH105
    assert was_read(saved)


def test_a_copy_is_read_on_its_own(saved: Path, tmp_path: Path) -> None:
    known = from_files(saved)
    shutil.copytree(saved, tmp_path / "copy")
    assert was_read(tmp_path / "copy")
    assert from_files(tmp_path / "copy").fingerprint == known.fingerprint


def test_a_directory_that_moved_is_still_known(saved: Path, tmp_path: Path) -> None:
    from_files(saved)
    saved.rename(tmp_path / "moved")
    assert not was_read(tmp_path / "moved")


def test_another_file_beside_the_weights_changes_nothing(saved: Path) -> None:
    from_files(saved)
    (saved / "README.md").write_text("a model")
    assert not was_read(saved)


def test_no_cache_neither_reads_nor_writes_it(saved: Path, cache: Path) -> None:
    known = from_files(saved, cache=False)
    assert not cache.exists()
    from_files(saved)
    file = next(cache.glob("*.json"))
    file.write_text(file.read_text().replace('"token_dim":32', '"token_dim":33'))
    assert from_files(saved).token_dim == 33
    assert from_files(saved, cache=False) == known


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"format": "promptreg.fingerprinted/1"}', "\xff\xfe"]
)
def test_a_damaged_hint_is_no_hint(saved: Path, cache: Path, content: str) -> None:
    known = from_files(saved)
    file = next(cache.glob("*.json"))
    file.write_text(content, "latin-1")
    assert was_read(saved)
    assert from_files(saved) == known
    assert not was_read(saved)


@pytest.mark.parametrize("key", ["fingerprint", "table", "tokenizer", "token_dim"])
def test_a_hint_that_contradicts_itself_is_no_hint(saved: Path, cache: Path, key: str) -> None:
    from_files(saved)
    file = next(cache.glob("*.json"))
    document = json.loads(file.read_text())
    document["base"][key] = "bfp1:" + "0" * 64 if key == "fingerprint" else "?"
    if key == "token_dim":
        del document["base"][key]
    file.write_text(json.dumps(document))
    assert was_read(saved)


def test_a_cache_that_cannot_be_written_is_done_without(saved: Path, cache: Path) -> None:
    cache.parent.write_text("a file stands where the directory should be")
    assert from_files(saved) == from_files(saved)


def test_what_was_written_just_now_is_not_remembered(saved: Path, cache: Path) -> None:
    known = from_files(saved)
    shutil.rmtree(cache)
    while True:  # until a round fits between two steps of the file system's clock
        os.utime(saved / "config.json")
        from_files(saved)
        if not remembered_files.DirectoryState.of(saved).settled:
            break
    assert not cache.exists()
    assert from_files(aged(saved)) == known
    assert cache.exists()


def test_an_unchanged_module_is_not_hashed_again() -> None:
    model = make("qwen3")
    known = from_module(model)
    assert from_module(model) is known
    assert from_module(torch.nn.DataParallel(model)) is known
    assert from_module(model.requires_grad_(requires_grad=False)) is known
    assert from_module(model, cache=False) is not known


def test_what_is_found_without_the_memory_is_remembered() -> None:
    model = make("qwen3")
    known = from_module(model)
    found = from_module(model, cache=False)
    assert found is not known
    assert from_module(model) is found


def test_rows_that_were_written_through_data_are_seen_if_they_are_many() -> None:
    model: Any = make("qwen3")
    known = from_module(model)
    rows = model.model.embed_tokens.weight.data
    rows[len(rows) // 2 :] = 0.5
    assert from_module(model).fingerprint != known.fingerprint


def test_running_a_module_does_not_make_it_forgotten() -> None:
    model = make("qwen3")
    known = from_module(model)
    model(input_ids=torch.ones(1, 4, dtype=torch.int64)).logits.sum().backward()
    assert from_module(model) is known


def change_in_place(weight: torch.nn.Parameter) -> None:
    with torch.no_grad():
        weight[0, 0] += 1


def change_by_optimizer(weight: torch.nn.Parameter) -> None:
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight]).step()


def change_by_data(weight: torch.nn.Parameter) -> None:
    weight.data += 1


def change_by_detached(weight: torch.nn.Parameter) -> None:
    weight.detach()[0, 0] += 1


def replace_data(weight: torch.nn.Parameter) -> None:
    weight.data = weight.data + 1


def change_by_numpy(weight: torch.nn.Parameter) -> None:
    weight.detach().numpy()[:] += 1


@pytest.mark.parametrize(
    "change",
    [
        change_in_place,
        change_by_optimizer,
        change_by_data,
        change_by_detached,
        replace_data,
        change_by_numpy,
    ],
)
def test_a_weight_that_was_written_to_is_seen(change: Any) -> None:
    model = make("qwen3")
    known = from_module(model)
    change(model.get_parameter("model.layers.1.mlp.up_proj.weight"))
    found = from_module(model)
    assert found.fingerprint != known.fingerprint
    assert found == from_module(model, cache=False)


def test_a_parameter_that_was_replaced_is_seen() -> None:
    model: Any = make("qwen3")
    known = from_module(model)
    model.model.norm.weight = torch.nn.Parameter(model.model.norm.weight.detach() + 1)
    assert from_module(model).fingerprint != known.fingerprint


def test_a_state_that_was_loaded_is_seen() -> None:
    model = make("qwen3")
    known = from_module(model)
    model.load_state_dict(make("qwen3", seed=1).state_dict())
    assert from_module(model).fingerprint == from_module(make("qwen3", seed=1)).fingerprint
    model.load_state_dict(make("qwen3").state_dict(), assign=True)
    assert from_module(model).fingerprint == known.fingerprint


def test_there_and_back_through_half_precision_is_seen() -> None:
    model: Any = make("qwen3")
    known = from_module(model)
    model.half().float()
    assert from_module(model).fingerprint != known.fingerprint


def test_memory_that_is_used_again_is_not_taken_for_the_weight_that_was_there() -> None:
    model: Any = make("qwen3")
    norm = model.model.norm
    seen = set()
    for value in range(50):
        norm.weight = None
        values = torch.ones(4096)
        values[5] = value  # hardly a witness; the version stays, and often the address does too
        norm.weight = torch.nn.Parameter(values)
        seen.add(from_module(model).fingerprint)
    assert len(seen) == 50


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_that_was_merged_is_seen() -> None:
    model = make("llama")
    known = from_module(model)
    adapted: Any = lora("llama", model)
    assert from_module(adapted).fingerprint == known.fingerprint
    adapted.merge_adapter()
    assert from_module(adapted).fingerprint != known.fingerprint


def test_weights_made_in_inference_mode_are_hashed_every_time() -> None:
    with torch.inference_mode():
        model = make("qwen3")
        known = from_module(model)
        model.get_parameter("model.norm.weight")[7] += 1
        assert from_module(model).fingerprint != known.fingerprint
    assert from_module(model).fingerprint != known.fingerprint


def test_a_module_is_not_kept_alive() -> None:
    model = make("qwen3")
    from_module(model)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_threads_agree() -> None:
    model = make("qwen3")
    found: list[BaseModel] = []
    threads = [threading.Thread(target=lambda: found.append(from_module(model))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({base.fingerprint for base in found}) == 1
