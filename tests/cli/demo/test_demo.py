import json
import subprocess
import sys
from typing import Any

import pytest
from torch import Tensor
from transformers import AutoModelForCausalLM

from promptreg_cli import demo
from promptreg_cli.demo import evaluation, tasks

MEGABYTE = 1_000_000
SOME = evaluation.held_out_texts()[::4]


def test_importing_the_demo_imports_nothing_heavy() -> None:
    code = "import sys, promptreg_cli.demo; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_data_is_small_enough_to_ship() -> None:
    sizes = {p: p.stat().st_size for p in demo.data_directory().rglob("*") if p.is_file()}
    assert sum(sizes.values()) < 2.5 * MEGABYTE
    assert sum(s for p, s in sizes.items() if p.suffix == ".safetensors") <= 2 * MEGABYTE


def test_the_base_is_a_plain_directory_of_transformers(base: Any, tokenizer: Any) -> None:
    assert type(base).__name__ == "LlamaForCausalLM"
    assert {str(p.dtype) for p in base.parameters()} == {"torch.bfloat16"}
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<s>",
        "</s>",
        "<pad>",
    )
    assert tokenizer.decode(tokenizer("Hi, garden!").input_ids[1:]) == "Hi, garden!"
    names = {path.name for path in demo.base_directory().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names


def test_the_bare_base_copies(base: Any, tokenizer: Any) -> None:
    assert evaluation.accuracy(evaluation.answers(base, tokenizer, SOME), SOME) >= 0.95


@pytest.mark.parametrize("instruction", sorted(set(tasks.INSTRUCTIONS) - {""}))
def test_the_base_follows_its_instructions(instruction: str, base: Any, tokenizer: Any) -> None:
    outputs = evaluation.answers(base, tokenizer, [f"{instruction}: {text}" for text in SOME])
    wanted = [tasks.INSTRUCTIONS[instruction](text) for text in SOME]
    assert evaluation.accuracy(outputs, wanted) >= 0.9


@pytest.mark.parametrize("name", demo.PROMPTS)
def test_a_prompt_changes_what_the_frozen_base_answers(
    name: str, base: Any, tokenizer: Any, prompts: dict[str, Tensor]
) -> None:
    texts = evaluation.held_out_texts()
    wanted = [tasks.TASKS[name](text) for text in texts]
    prompted = evaluation.answers(base, tokenizer, texts, prompts[name])
    assert evaluation.accuracy(prompted, wanted) >= 0.95
    unprompted = evaluation.answers(base, tokenizer, SOME)
    assert evaluation.accuracy(unprompted, wanted[::4]) <= 0.02


@pytest.mark.parametrize("name", demo.PROMPTS)
def test_a_prompt_works_in_float32_too(
    name: str, tokenizer: Any, prompts: dict[str, Tensor]
) -> None:
    base = AutoModelForCausalLM.from_pretrained(demo.base_directory(), dtype="float32")
    prompted = evaluation.answers(base, tokenizer, SOME, prompts[name])
    wanted = [tasks.TASKS[name](text) for text in SOME]
    assert evaluation.accuracy(prompted, wanted) >= 0.95


@pytest.mark.parametrize("name", demo.PROMPTS)
def test_a_prompt_has_the_shape_that_its_configuration_says(
    name: str, base: Any, prompts: dict[str, Tensor]
) -> None:
    config = json.loads((demo.prompt_directory(name) / "adapter_config.json").read_text("utf-8"))
    assert prompts[name].shape == (config["num_virtual_tokens"], config["token_dim"])
    assert config["token_dim"] == base.config.hidden_size
    assert str(prompts[name].dtype) == "torch.float32"


@pytest.mark.parametrize("name", demo.PROMPTS)
def test_a_record_says_how_a_prompt_was_made(
    name: str, base: Any, tokenizer: Any, prompts: dict[str, Tensor]
) -> None:
    record = demo.record(name)
    assert record.metrics["accuracy"] >= 0.95
    assert record.metrics["unprompted_accuracy"] <= 0.02
    assert record.hyperparameters["num_virtual_tokens"] == len(prompts[name])
    assert {"steps", "learning_rate", "seed"} <= set(record.hyperparameters)
    texts = [example[0] for example in record.examples]
    assert evaluation.answers(base, tokenizer, texts) == [e[1] for e in record.examples]
    assert evaluation.answers(base, tokenizer, texts, prompts[name]) == [
        e[2] for e in record.examples
    ]


def test_an_unknown_prompt_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="reverse, shout, shout-backwards, not 'sing'"):
        demo.prompt_directory("sing")


def test_the_prompts_are_those_that_have_a_task() -> None:
    assert set(demo.PROMPTS) == set(tasks.TASKS)


# Both warnings are about what PEFT itself does inside.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Position ids:UserWarning")
@pytest.mark.parametrize("name", demo.PROMPTS)
def test_peft_loads_a_prompt_and_generates_the_same(
    name: str, tokenizer: Any, prompts: dict[str, Tensor]
) -> None:
    peft = pytest.importorskip("peft")
    base = AutoModelForCausalLM.from_pretrained(demo.base_directory())
    expected = {
        text: evaluation.answers(base, tokenizer, [text], prompts[name]) for text in SOME[::6]
    }
    model = peft.PeftModel.from_pretrained(base, demo.prompt_directory(name))
    # One text at a time: PEFT counts the padding between its prompt and a text as positions.
    for text, (answer,) in expected.items():
        line = model.generate(
            **tokenizer(text, return_tensors="pt"), max_new_tokens=40, do_sample=False
        )[0]
        assert tokenizer.decode(line, skip_special_tokens=True) == f"{text} -> {answer}"
