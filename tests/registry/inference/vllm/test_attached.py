from dataclasses import replace
from pathlib import Path

import pytest
import torch

from promptreg.errors import (
    AttachError,
    ConfigurationError,
    ConflictError,
    IncompatibleModelError,
    UnreadableBaseModelError,
)
from promptreg.inference.vllm import AttachedPrompts, ServedBase
from promptreg.models import Policy
from promptreg.prompts import Placement, PulledPrompt, SoftPrompt
from promptreg_cli.demo import base_directory
from registry.models.architectures import make
from registry.models.peft_prompts import pair_of, pull
from samples import soft_prompt


def saved(directory: Path, name: str, seed: int = 0) -> ServedBase:
    """Save the tiny model ``name`` with the demo's tokenizer, and open it as a served one."""
    make(name, seed=seed).save_pretrained(directory)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (directory / file).write_bytes((base_directory() / file).read_bytes())
    return ServedBase.open(directory)


def pulled(name: str = "llama", kind: str = "PROMPT_TUNING") -> PulledPrompt:
    pair = pair_of(name, kind)
    return pull(pair.base, pair.prompt)


def test_a_prompt_for_this_base_is_attached_under_its_reference(tmp_path: Path) -> None:
    prompts = AttachedPrompts(saved(tmp_path, "llama"))
    assert prompts.add(pulled()) == "sst2@3"
    assert "the base model is" in str(prompts["sst2@3"].report)
    assert prompts.chosen(["sst2", None], 2) == [prompts["sst2@3"], None]


def test_a_prompt_for_another_base_is_refused(tmp_path: Path) -> None:
    prompts = AttachedPrompts(saved(tmp_path, "llama", seed=1))
    with pytest.raises(IncompatibleModelError, match=r"was trained on .* \(same-shape\)"):
        prompts.add(pulled())
    assert not prompts
    prompts.add(pulled(), policy="same-shape")
    assert list(prompts) == ["sst2@3"]


def test_a_prompt_of_another_width_is_refused_by_every_policy(base: ServedBase) -> None:
    prompts = AttachedPrompts(base, policy="unchecked")
    with pytest.raises(IncompatibleModelError, match="token_dim 8"):
        prompts.add(soft_prompt(), name="narrow")


def test_keys_and_values_are_for_use_in_process(tmp_path: Path) -> None:
    prompts = AttachedPrompts(saved(tmp_path, "llama"))
    with pytest.raises(AttachError, match=r"prefix tuning.*use it in process"):
        prompts.add(pulled(kind="PREFIX_TUNING"))


def test_a_policy_that_needs_the_model_itself_is_refused(base: ServedBase) -> None:
    with pytest.raises(AttachError, match="promptreg check REF --base DIR --canary"):
        AttachedPrompts(base, policy=Policy.CANARY).add(pulled())


def test_there_is_no_policy_of_another_name(base: ServedBase) -> None:
    with pytest.raises(ConfigurationError, match="there is no such policy"):
        AttachedPrompts(base, policy="maybe")


def test_a_bare_prompt_needs_a_name(base: ServedBase, shout: SoftPrompt) -> None:
    prompts = AttachedPrompts(base, policy="unchecked")
    with pytest.raises(AttachError, match="pass name="):
        prompts.add(shout)


def test_a_name_is_not_taken_twice(attached: AttachedPrompts, reverse: SoftPrompt) -> None:
    before = attached["shout@prod"]
    with pytest.raises(ConflictError, match="replace=True"):
        attached.add(reverse, name="shout@prod")
    assert attached["shout@prod"] is before
    attached.add(reverse, name="shout@prod", replace=True)
    assert attached["shout@prod"].soft == reverse


def test_the_same_version_again_changes_nothing(tmp_path: Path) -> None:
    prompts = AttachedPrompts(saved(tmp_path, "llama"))
    prompts.add(pulled())
    before = prompts["sst2@3"]
    assert prompts.add(pulled()) == "sst2@3"
    assert prompts["sst2@3"] is before


def test_a_prompt_that_is_removed_is_gone(attached: AttachedPrompts) -> None:
    attached.remove("reverse")
    assert list(attached) == ["shout@prod"]
    with pytest.raises(AttachError, match="no prompt 'reverse' is attached"):
        attached.remove("reverse")


@pytest.mark.parametrize("placement", [Placement.PREFIX, Placement.AFTER_BOS])
def test_virtual_tokens_stand_where_the_prompt_says(
    base: ServedBase, shout: SoftPrompt, placement: Placement
) -> None:
    prompts = AttachedPrompts(base, policy="unchecked")
    prompts.add(replace(shout, placement=placement), name="shout")
    text = base.embed([1, 5, 9])
    placed = prompts["shout"].place(text)
    first = 1 if placement is Placement.AFTER_BOS else 0
    length = shout.num_virtual_tokens
    assert torch.equal(placed[:first], text[:first])
    assert torch.equal(placed[first : first + length], prompts["shout"].members[0])
    assert torch.equal(placed[first + length :], text[first:])


def test_an_encoder_decoder_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(UnreadableBaseModelError, match="encoder-decoder, and vLLM"):
        saved(tmp_path, "t5")


def test_a_base_without_a_tokenizer_is_not_served(tmp_path: Path) -> None:
    make("llama").save_pretrained(tmp_path)
    with pytest.raises(UnreadableBaseModelError, match="tokenizer"):
        ServedBase.open(tmp_path)


def test_the_dtype_is_the_stored_one_or_the_one_asked_for() -> None:
    assert ServedBase.open(base_directory()).dtype == "bfloat16"
    assert ServedBase.open(base_directory(), dtype="auto").dtype == "bfloat16"
    assert ServedBase.open(base_directory(), dtype="float").dtype == "float32"
    with pytest.raises(ConfigurationError, match="one of auto, bfloat16"):
        ServedBase.open(base_directory(), dtype="int4")


def test_a_token_that_the_base_does_not_know_is_named(base: ServedBase) -> None:
    with pytest.raises(AttachError, match="the token id 99 is not one"):
        base.embed([1, 99])


def test_no_tokens_are_no_rows(base: ServedBase) -> None:
    assert base.embed([]).shape == (0, 128)
