"""Two prompts that the authors of prompt tuning published go in and out unchanged."""

from pathlib import Path

import pytest

from real.sides import Side

pytestmark = pytest.mark.real

_PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "t5_1_1_lm100k_base"


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model as wide as T5 1.1 Base, which the prompts were trained on, and no larger than need be."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        d_model=768,
        d_kv=8,
        d_ff=16,
        num_heads=2,
        num_layers=1,
        vocab_size=64,
        feed_forward_proj="gated-gelu",
    )
    directory = tmp_path_factory.mktemp("t5") / "t5-wide"
    T5ForConditionalGeneration(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("task", ["mrpc", "sst2"])
def test_a_published_prompt_goes_in_and_out_unchanged(
    task: str, t5: Path, registry: dict[str, str], tmp_path: Path
) -> None:
    published = _PUBLISHED / f"{task}.npy"
    if not published.exists():
        pytest.skip(f"the published prompts are not in {_PUBLISHED}")
    side = Side(registry=registry, cache=tmp_path / "here")
    side.promptreg("upgrade")
    (pushed,) = side.json("push", published, "--task", f"glue/{task}", "--base", t5)
    assert pushed["created"]
    back = tmp_path / "back.npy"
    side.elsewhere(tmp_path / "there").promptreg("pull", pushed["ref"], back, "--format", "npy")
    assert back.read_bytes() == published.read_bytes()
