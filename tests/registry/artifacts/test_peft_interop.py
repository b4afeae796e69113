"""What PEFT itself saves and loads, with tiny models of it: nothing here is written by hand."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from prompt_examples import PEFT_METHODS, base_model, soft_prompt, tensor
from promptreg import artifacts
from promptreg.prompts import Method, Placement, TaskType

# PEFT's own use of transformers, which is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
torch.set_num_threads(1)
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


def llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,  # grouped queries: keys are narrower than the embedding
        )
    )


def t5() -> Any:
    config = T5Config(
        vocab_size=32, d_model=16, d_kv=8, num_heads=2, d_ff=16, num_layers=2, pad_token_id=0
    )
    config.decoder_start_token_id = 0
    return T5ForConditionalGeneration(config)


def classifier() -> Any:
    config = GPT2Config(
        vocab_size=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    config.num_labels = 3
    return GPT2ForSequenceClassification(config)


CASES: dict[str, tuple[Callable[[], Any], Any]] = {
    "prompt tuning": (
        llama,
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ),
    "p-tuning": (
        llama,
        peft.PromptEncoderConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8
        ),
    ),
    "p-tuning with an LSTM": (
        llama,
        peft.PromptEncoderConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=3,
            encoder_hidden_size=8,
            encoder_reparameterization_type="LSTM",
        ),
    ),
    "prefix tuning": (
        llama,
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ),
    "prefix tuning with a projection": (
        llama,
        peft.PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=3,
            prefix_projection=True,
            encoder_hidden_size=8,
        ),
    ),
    "multitask prompt tuning": (
        llama,
        peft.MultitaskPromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=3, num_tasks=2, num_ranks=2
        ),
    ),
    "cpt": (
        llama,
        peft.CPTConfig(
            task_type="CAUSAL_LM",
            cpt_token_ids=[1, 2, 3],
            cpt_mask=[1, 1, 1],
            cpt_tokens_type_mask=[1, 2, 3],
        ),
    ),
    "prompt tuning of an encoder-decoder": (
        t5,
        peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3),
    ),
    "p-tuning of an encoder-decoder": (
        t5,
        peft.PromptEncoderConfig(
            task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3, encoder_hidden_size=8
        ),
    ),
    "prefix tuning of an encoder-decoder": (
        t5,
        peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3),
    ),
    "multitask prompt tuning of an encoder-decoder": (
        t5,
        peft.MultitaskPromptTuningConfig(
            task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3, num_tasks=2, num_ranks=1
        ),
    ),
    "prompt tuning with a classifier": (
        classifier,
        peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
    ),
}
HALVED = {"prompt tuning of an encoder-decoder", "p-tuning of an encoder-decoder"}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class Saved:
    """A prompt that PEFT saved, and a fresh copy of its base for each who loads it."""

    def __init__(self, case: str, directory: Path) -> None:
        torch.manual_seed(0)
        make, config = CASES[case]
        self.case = case
        self.directory = directory
        self._base = make().eval()
        model = peft.get_peft_model(copy.deepcopy(self._base), copy.deepcopy(config))
        for parameter in model.parameters():
            if parameter.requires_grad:  # as if it had been trained
                torch.nn.init.normal_(parameter)
        model.save_pretrained(str(directory))

    def load(self, directory: Path) -> Any:
        return peft.PeftModel.from_pretrained(copy.deepcopy(self._base), str(directory)).eval()

    def outputs(self, model: Any) -> torch.Tensor:
        arguments: dict[str, Any] = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
        if "encoder-decoder" in self.case:
            arguments["labels"] = IDS
        if "multitask" in self.case:
            arguments["task_ids"] = torch.tensor([0, 1])
        with torch.no_grad():
            found: torch.Tensor = model(**arguments).logits
        return found


@pytest.fixture
def saved(case: str, tmp_path: Path) -> Saved:
    return Saved(case, tmp_path / "in")


def test_a_prompt_goes_through_with_every_bit(saved: Saved, tmp_path: Path) -> None:
    artifacts.write(artifacts.read(saved.directory), tmp_path / "out", base=base_model())
    theirs, ours = saved.load(saved.directory), saved.load(tmp_path / "out")
    expected = theirs.prompt_encoder.default.embedding.weight
    found = ours.prompt_encoder.default.embedding.weight
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected[: len(found)])
    assert len(expected) == len(found) * (2 if saved.case in HALVED else 1)
    assert torch.equal(saved.outputs(ours), saved.outputs(theirs))


def test_what_peft_saved_is_written_back_to_the_byte(saved: Saved, tmp_path: Path) -> None:
    artifacts.write(artifacts.read(saved.directory), tmp_path / "out")
    if saved.case in HALVED:
        before = json.loads((saved.directory / "adapter_config.json").read_text())
        after = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert after == before | {"num_transformer_submodules": 1}
    else:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            assert (tmp_path / "out" / name).read_bytes() == (saved.directory / name).read_bytes()


def test_our_own_form_and_back_loses_nothing(saved: Saved, tmp_path: Path) -> None:
    prompt = artifacts.read(saved.directory)
    artifacts.write(prompt, tmp_path / "own", "safetensors", base=base_model())
    again = artifacts.read(tmp_path / "own")
    assert again == prompt
    artifacts.write(prompt, tmp_path / "a")
    artifacts.write(again, tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_classifier_trained_with_the_prompt_comes_along(tmp_path: Path) -> None:
    saved = Saved("prompt tuning with a classifier", tmp_path / "in")
    artifacts.write(artifacts.read(saved.directory), tmp_path / "out")
    theirs, ours = saved.load(saved.directory), saved.load(tmp_path / "out")
    expected = theirs.base_model.score.modules_to_save.default.weight
    assert torch.equal(ours.base_model.score.modules_to_save.default.weight, expected)
    assert not torch.equal(expected, theirs.base_model.score.original_module.weight)


def test_the_decoder_reads_its_half_of_a_multitask_prompt(tmp_path: Path) -> None:
    # The reason to keep it: without the second half, PEFT's forward gives something else.
    saved = Saved("multitask prompt tuning of an encoder-decoder", tmp_path / "in")
    model = saved.load(saved.directory)
    before = saved.outputs(model)
    with torch.no_grad():
        model.prompt_encoder.default.embedding.weight[3:] += 1
    assert not torch.equal(saved.outputs(model), before)


def test_the_decoder_never_reads_the_rows_that_are_left_out(tmp_path: Path) -> None:
    for number, case in enumerate(sorted(HALVED)):
        saved = Saved(case, tmp_path / str(number))
        model = saved.load(saved.directory)
        before = saved.outputs(model)
        with torch.no_grad():
            model.prompt_encoder.default.embedding.weight[3:] += 1
        assert torch.equal(saved.outputs(model), before)


@pytest.mark.parametrize("format_name", ["npy", "safetensors"])
@pytest.mark.parametrize("make", [llama, t5])
def test_a_prompt_that_peft_never_saw_loads_in_peft(
    tmp_path: Path, make: Callable[[], Any], format_name: str
) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 16)).astype("<f4")
    if format_name == "npy":
        np.save(tmp_path / "prompt.npy", rows)
    else:
        from safetensors.numpy import save_file

        save_file({"soft_prompt": rows}, tmp_path / "prompt.npy")
    base = base_model(token_dim=16, encoder_decoder=make is t5)
    artifacts.write(artifacts.read(tmp_path / "prompt.npy"), tmp_path / "out", base=base)
    model: Any = peft.PeftModel.from_pretrained(make().eval(), str(tmp_path / "out")).eval()
    assert type(model).__name__ == f"PeftModelFor{'Seq2SeqLM' if make is t5 else 'CausalLM'}"
    found = model.prompt_encoder.default.embedding.weight.detach().numpy()
    assert found.tobytes() == rows.tobytes()
    extra = {"labels": IDS} if make is t5 else {}
    with torch.no_grad():
        assert model(input_ids=IDS, **extra).logits.isfinite().all()


@pytest.mark.parametrize("method", PEFT_METHODS)
def test_a_configuration_made_here_loads_in_peft_for_every_method(
    tmp_path: Path, method: Method
) -> None:
    tensors = {"prompt_embeddings": tensor(3, 16)}
    fields: dict[str, Any] = {}
    if method is Method.PREFIX_TUNING:
        tensors = {"prompt_embeddings": tensor(3, 2 * 2 * 8)}
        fields = {"token_dim": 8, "num_layers": 2, "placement": Placement.KEY_VALUES}
    elif method is Method.MULTITASK_PROMPT_TUNING:
        tensors |= {
            "prefix_task_cols": tensor(2, 3, 1),
            "prefix_task_rows": tensor(2, 1, 16),
        }
    prompt = soft_prompt(
        3, 16, method=method, tensors=tensors, task_type=TaskType.CAUSAL_LM, **fields
    )
    artifacts.write(prompt, tmp_path / "out", base=base_model(token_dim=16, num_layers=2))
    model: Any = peft.PeftModel.from_pretrained(llama().eval(), str(tmp_path / "out")).eval()
    found = model.prompt_encoder.default.embedding.weight.detach().numpy()
    assert found.astype("<f4").tobytes() == tensors["prompt_embeddings"].data
    extra = {"task_ids": torch.tensor([0, 1])} if method is Method.MULTITASK_PROMPT_TUNING else {}
    with torch.no_grad():
        assert model(input_ids=IDS, **extra).logits.isfinite().all()
