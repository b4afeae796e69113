import re
from pathlib import Path
from typing import Any

import pytest
import torch

from promptreg.bases import BaseModel
from promptreg.fingerprints import Comparison, Verdict, compare
from promptreg.models.fingerprinting import from_files, from_module
from registry.models.architectures import ARCHITECTURES, make
from registry.models.variants import (
    equivalents,
    load,
    lora,
    save,
    wrong_files,
    wrong_modules,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied:UserWarning"),
]

NAMES = sorted(ARCHITECTURES)
UNTIED = [name for name in NAMES if not ARCHITECTURES[name].tied]
ACCEPTED = {
    "bert": 26,
    "gemma3": 29,
    "gpt2": 29,
    "llama": 24,
    "mixtral": 24,
    "opt": 28,
    "qwen3": 29,
    "t5": 24,
}
REFUSED = {
    "bert": 349,
    "gemma3": 384,
    "gpt2": 166,
    "llama": 85,
    "mixtral": 101,
    "opt": 310,
    "qwen3": 96,
    "t5": 516,
}


@pytest.mark.parametrize("name", NAMES)
def test_an_equivalent_base_is_accepted(name: str, tmp_path: Path) -> None:
    saved = save(make(name, dtype=torch.bfloat16), tmp_path / "saved")
    base = from_files(saved, cache=False)
    accepted = 0
    for label, other in equivalents(name, saved, tmp_path):
        assert other.fingerprint == base.fingerprint, (label, differing(base, other))
        assert compared(base, other).verdict is Verdict.EXACT, label
        assert other.dtype == "BF16", label
        accepted += 1
    assert accepted == ACCEPTED[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_base_is_refused(name: str, tmp_path: Path) -> None:
    saved = save(make(name), tmp_path / "saved")
    base = from_files(saved, cache=False)
    assert from_module(make(name)).fingerprint == base.fingerprint
    seen = {base.fingerprint}
    for label, other in (*wrong_modules(name), *wrong_files(name, saved, tmp_path / "wrong")):
        assert compared(base, other).verdict is not Verdict.EXACT, f"{label} was let through"
        assert other.fingerprint not in seen, f"{label} looks like another one"
        seen.add(other.fingerprint)
    assert len(seen) - 1 == REFUSED[name]


def test_several_hundred_wrong_bases_are_refused_and_several_dozen_equivalent_ones_accepted() -> (
    None
):
    print(f"refused {sum(REFUSED.values())}, accepted {sum(ACCEPTED.values())}")  # noqa: T201
    assert REFUSED.keys() == ACCEPTED.keys() == ARCHITECTURES.keys()
    assert sum(REFUSED.values()) == 2007
    assert sum(ACCEPTED.values()) == 213


@pytest.mark.parametrize("name", NAMES)
def test_every_other_head_on_the_same_backbone_is_the_same_base(name: str, tmp_path: Path) -> None:
    saved = save(make(name), tmp_path / "saved")
    base = from_files(saved, cache=False)
    for kind in (ARCHITECTURES[name].backbone, *ARCHITECTURES[name].others):
        other = from_module(load(name, saved, kind))
        assert other.architecture == kind
        assert compared(base, other) == Comparison(verdict=Verdict.EXACT, headless=True)
        assert compared(other, base).verdict is Verdict.EXACT


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_the_backbone_alone_is_the_same_base(name: str, tmp_path: Path) -> None:
    saved = save(make(name), tmp_path / "saved")
    alone = save(load(name, saved, ARCHITECTURES[name].backbone), tmp_path / "alone")
    comparison = compared(from_files(saved, cache=False), from_files(alone, cache=False))
    assert comparison == Comparison(verdict=Verdict.EXACT, headless=True)


@pytest.mark.parametrize("name", UNTIED)
def test_a_head_that_both_have_must_agree(name: str) -> None:
    model = make(name)
    base = from_module(model)
    head = [
        weight
        for key, weight in model.named_parameters()
        if key.startswith(("lm_head", "classifier"))
    ]
    with torch.no_grad():
        head[0][0, 0] += 1
    assert compared(base, from_module(model)).verdict is Verdict.SAME_EMBEDDING
    assert len(differing(base, from_module(model))) == 1


@pytest.mark.parametrize("name", [name for name in NAMES if ARCHITECTURES[name].tied])
def test_a_head_of_its_own_is_not_a_tied_head(name: str) -> None:
    model: Any = make(name)
    base = from_module(model)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach() + 1)
    other = from_module(model)
    assert compared(base, other) == Comparison(
        verdict=Verdict.SAME_EMBEDDING, differing=("lm_head.weight",)
    )
    assert compared(other, base).verdict is Verdict.SAME_EMBEDDING


def test_a_classifier_that_the_prompt_brings_need_not_agree() -> None:
    one = from_module(make("bert"))
    other = make("bert")
    with torch.no_grad():
        other.get_parameter("classifier.weight").add_(1)
        other.get_parameter("classifier.bias").add_(1)
    assert one.table
    found = from_module(other).table
    assert found
    assert compare(one.table, found).differing == ("classifier.bias", "classifier.weight")
    brought = ("classifier.bias", "classifier.weight")
    assert compare(one.table, found, replaced=brought).verdict is Verdict.EXACT


def test_a_finetuned_body_has_the_same_embedding() -> None:
    model = make("llama")
    base = from_module(model)
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight").mul_(1.5)
    comparison = compared(base, from_module(model))
    assert comparison == Comparison(
        verdict=Verdict.SAME_EMBEDDING, differing=("layers.1.mlp.up_proj.weight",)
    )


def test_another_revision_has_the_same_shape() -> None:
    verdict = compared(from_module(make("llama")), from_module(make("llama", seed=1))).verdict
    assert verdict is Verdict.SAME_SHAPE


@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": 3}, {"hidden_size": 64}, {"vocab_size": 97}]
)
def test_another_size_is_incompatible(changes: dict[str, Any]) -> None:
    base, other = from_module(make("llama")), from_module(make("llama", **changes))
    assert compared(base, other).verdict is Verdict.INCOMPATIBLE


def test_another_architecture_is_incompatible() -> None:
    bases = [from_module(make(name)) for name in NAMES]
    verdicts = {compared(a, b).verdict for a in bases for b in bases if a is not b}
    assert verdicts == {Verdict.INCOMPATIBLE}


def test_a_lossy_load_is_not_the_base(tmp_path: Path) -> None:
    saved = save(make("gpt2"), tmp_path / "saved")
    base = from_files(saved, cache=False)
    for dtype in (torch.bfloat16, torch.float16):
        assert from_module(load("gpt2", saved, dtype=dtype)).fingerprint != base.fingerprint


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_program_in_the_documentation_gives_the_same(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    text = (Path(__file__).parents[3] / "docs" / "format.md").read_text()
    program = re.findall(r"```python\n(.*?)```", text.partition("# The fingerprint")[2], re.DOTALL)
    names: dict[str, Any] = {}
    exec(program[0], names)  # noqa: S102
    model = make("llama", as_class="LlamaModel", dtype=dtype)
    saved = save(model, tmp_path / "saved")
    expected = names["fingerprint"](saved / "model.safetensors")
    assert str(from_module(model).fingerprint) == expected
    assert str(from_files(saved, cache=False).fingerprint) == expected


def test_half_precision_loaded_as_float32_is_the_base(tmp_path: Path) -> None:
    saved = save(make("t5", dtype=torch.float16), tmp_path / "saved")
    base = from_files(saved, cache=False)
    assert base.dtype == "F16"
    assert from_module(load("t5", saved)).fingerprint == base.fingerprint
    assert from_module(load("t5", saved, dtype=torch.float32)).fingerprint == base.fingerprint


def test_lora_that_was_merged_in_place_is_not_the_base() -> None:
    model = make("llama")
    base = from_module(model)
    adapted: Any = lora("llama", model)
    assert from_module(adapted).fingerprint == base.fingerprint
    adapted.merge_adapter()
    assert compared(base, from_module(adapted)).verdict is Verdict.SAME_EMBEDDING


def test_float_buffers_that_are_saved_are_weights(tmp_path: Path) -> None:
    import transformers

    config = transformers.DeepseekV3Config(
        vocab_size=96, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
        topk_group=1, first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4,
        qk_nope_head_dim=4, v_head_dim=8,
    )  # fmt: skip
    model = transformers.DeepseekV3ForCausalLM(config)
    base = from_files(save(model, tmp_path / "saved"), cache=False)
    assert from_module(model).fingerprint == base.fingerprint
    bias = model.get_buffer("model.layers.1.mlp.gate.e_score_correction_bias")
    bias[0] = 1
    comparison = compared(base, from_module(model))
    assert comparison.differing == ("layers.1.mlp.gate.e_score_correction_bias",)


def test_the_facts_of_a_base_are_filled_in(tmp_path: Path) -> None:
    saved = save(make("gemma3", dtype=torch.bfloat16), tmp_path / "gemma-3-tiny")
    (saved / "tokenizer.json").write_text("{}")
    base = from_files(saved, name="tiny", cache=False)
    live = from_module(load("gemma3", saved))
    assert (base.architecture, base.model_type) == ("Gemma3ForCausalLM", "gemma3_text")
    assert (base.token_dim, base.vocab_size, base.num_layers, base.key_value_dim) == (32, 96, 4, 16)
    assert (base.dtype, base.encoder_decoder, base.head) == ("BF16", False, None)
    assert base.parameters == sum(p.numel() for p in make("gemma3").parameters())
    assert (base.name, base.source) == ("tiny", "gemma-3-tiny")
    assert base.tokenizer is not None
    assert base.table is not None
    assert base.table.fingerprint == base.fingerprint
    assert live == from_files(saved, cache=False)


def test_the_facts_of_an_encoder_decoder_are_the_decoders() -> None:
    base = from_module(make("t5", num_decoder_layers=3))
    assert base.encoder_decoder
    assert (base.num_layers, base.key_value_dim) == (3, 32)
    assert base.head is not None


def test_a_hubs_cache_tells_the_revision(tmp_path: Path) -> None:
    folder = tmp_path / "models--google--tiny" / "snapshots" / ("ab" * 20)
    base = from_files(save(make("qwen3"), folder), cache=False)
    assert (base.source, base.revision) == ("google/tiny", "ab" * 20)


def test_another_tokenizer_is_another_digest_and_the_same_base(tmp_path: Path) -> None:
    saved = save(make("qwen3"), tmp_path / "saved")
    bases = []
    for content in ("{}", "[]"):
        (saved / "tokenizer.json").write_text(content)
        bases.append(from_files(saved, cache=False))
    assert bases[0].fingerprint == bases[1].fingerprint
    assert bases[0].tokenizer != bases[1].tokenizer


def test_progress_is_told_to_the_end(tmp_path: Path) -> None:
    saved = save(make("mixtral"), tmp_path / "saved")
    told: list[tuple[int, int]] = []
    from_files(saved, cache=False, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 100_000


def test_a_fingerprint_does_not_write_to_the_model(tmp_path: Path) -> None:
    saved = save(make("opt"), tmp_path / "saved")
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    model = make("opt")
    versions = {name: weight._version for name, weight in model.named_parameters()}
    from_files(saved, cache=False)
    from_module(model)
    assert {name: weight._version for name, weight in model.named_parameters()} == versions
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def compared(expected: BaseModel, actual: BaseModel) -> Comparison:
    assert expected.table
    assert actual.table
    return compare(expected.table, actual.table)


def differing(expected: BaseModel, actual: BaseModel) -> tuple[str, ...]:
    return compared(expected, actual).differing
