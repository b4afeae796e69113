"""Make the demo's base model and its soft prompts: ``python -m promptreg_cli.demo.make``.

It takes about ten minutes on one processor core. The same seed gives the same bytes on the same
kind of processor with the same release of PyTorch.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import click
import torch
from safetensors.torch import save
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from promptreg_cli.demo import data_directory, evaluation, tasks, training, vocabulary
from promptreg_cli.demo.training import Schedule

__all__ = ["PromptRecipe", "Recipe", "main", "make"]

_BASE_NAME = "promptreg-demo-base"
_PEFT_VERSION = "0.21.2"  # whose keys adapter_config.json has
_SHOWN = ("garden", "penguin", "sleepy lion")  # words that no training saw


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecipe:
    """How to train one soft prompt.

    Attributes:
        num_virtual_tokens: P.
        schedule: How long and how fast.
    """

    num_virtual_tokens: int
    schedule: Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to make everything.

    Attributes:
        base: How long and how fast to train the base model.
        prompts: How to train each soft prompt, by its name.
        texts: On how many held-out texts to measure.
    """

    base: Schedule
    prompts: Mapping[str, PromptRecipe]
    texts: int

    @classmethod
    def full(cls, seed: int) -> Self:
        """Return the recipe of the files that are shipped."""
        base = Schedule(steps=1800, batch_size=64, learning_rate=3e-3, weight_decay=0.01, seed=seed)
        easy = Schedule(steps=400, batch_size=32, learning_rate=0.1, seed=seed)
        # No instruction asks for this one, so that it takes more tokens and more steps.
        hard = replace(easy, steps=600)
        prompts = {
            "reverse": PromptRecipe(num_virtual_tokens=8, schedule=easy),
            "shout": PromptRecipe(num_virtual_tokens=8, schedule=easy),
            "shout-backwards": PromptRecipe(num_virtual_tokens=16, schedule=hard),
        }
        return cls(base=base, prompts=prompts, texts=len(evaluation.held_out_texts()))

    def quick(self) -> "Recipe":
        """Return the same recipe with next to no steps: the files load, and answer nonsense."""

        def few(schedule: Schedule) -> Schedule:
            return replace(schedule, steps=2, batch_size=4)

        prompts = {n: replace(p, schedule=few(p.schedule)) for n, p in self.prompts.items()}
        return Recipe(base=few(self.base), prompts=prompts, texts=4)


def make(out: Path, recipe: Recipe) -> None:
    """Train everything and write it to ``out``, replacing what an earlier run left there."""
    torch.set_num_threads(1)  # so that sums do not depend on how many cores there are
    texts = evaluation.held_out_texts()[-recipe.texts :]
    _make_base(out / "base", recipe.base, texts)
    for name, prompt_recipe in recipe.prompts.items():
        _make_prompt(out / "base", out / "prompts" / name, name, prompt_recipe, texts)


def _make_base(directory: Path, schedule: Schedule, texts: Sequence[str]) -> None:
    tokenizer = vocabulary.make_tokenizer()
    model = training.make_base(tokenizer, schedule.seed)
    loss = training.train_base(model, tokenizer, schedule)
    model.to(torch.bfloat16)
    shutil.rmtree(directory, ignore_errors=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner only
    accuracies = {}
    for instruction, operation in tasks.INSTRUCTIONS.items():
        questions = [f"{instruction}: {text}" if instruction else text for text in texts]
        outputs = evaluation.answers(model, tokenizer, questions)
        wanted = [operation(text) for text in texts]
        accuracies[instruction or "(none)"] = evaluation.accuracy(outputs, wanted)
    content = {
        "description": "Does to a text what an instruction before it says, and copies without one",
        "metrics": {"final_loss": round(loss, 6)},
        "accuracy_by_instruction": accuracies,
        "hyperparameters": {"optimizer": "adamw", **asdict(schedule)},
    }
    _write_json(directory / "metrics.json", content)
    _say(_BASE_NAME, accuracies)


def _make_prompt(
    base: Path, directory: Path, name: str, recipe: PromptRecipe, texts: Sequence[str]
) -> None:
    # Trained in float32, on the weights as they were rounded when they were written.
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    prompt, loss = training.train_prompt(
        model, tokenizer, name, recipe.num_virtual_tokens, recipe.schedule
    )
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    _write_peft(directory, prompt, model)
    # Measured as it will be used: a base that is loaded without a word is bfloat16.
    model = AutoModelForCausalLM.from_pretrained(base)
    wanted = [tasks.TASKS[name](text) for text in texts]
    metrics = {
        "accuracy": evaluation.accuracy(
            evaluation.answers(model, tokenizer, texts, prompt), wanted
        ),
        "unprompted_accuracy": evaluation.accuracy(
            evaluation.answers(model, tokenizer, texts), wanted
        ),
        "final_loss": round(loss, 6),
    }
    examples = zip(
        _SHOWN,
        evaluation.answers(model, tokenizer, _SHOWN),
        evaluation.answers(model, tokenizer, _SHOWN, prompt),
        strict=True,
    )
    content = {
        "description": (tasks.TASKS[name].__doc__ or "").removeprefix("Return ").rstrip("."),
        "metrics": metrics,
        "hyperparameters": {
            "num_virtual_tokens": recipe.num_virtual_tokens,
            "init": "sampled-vocabulary",
            "optimizer": "adamw",
            **asdict(recipe.schedule),
        },
        "examples": [{"input": i, "unprompted": u, "prompted": p} for i, u, p in examples],
    }
    _write_json(directory / "metrics.json", content)
    _say(name, metrics)


def _write_peft(directory: Path, prompt: Tensor, model: Any) -> None:
    """Write ``prompt``, [P, H], as the two files that PEFT writes."""
    num_virtual_tokens, token_dim = prompt.shape
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": _BASE_NAME,
        "inference_mode": True,
        "modules_to_save": None,
        "num_attention_heads": model.config.num_attention_heads,
        "num_layers": model.config.num_hidden_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": num_virtual_tokens,
        "peft_type": "PROMPT_TUNING",
        "peft_version": _PEFT_VERSION,
        "prompt_tuning_init": "SAMPLE_VOCAB",
        "prompt_tuning_init_text": None,
        "revision": None,
        "task_type": "CAUSAL_LM",
        "token_dim": token_dim,
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    }
    _write_json(directory / "adapter_config.json", config)
    tensors = {"prompt_embeddings": prompt.contiguous()}
    (directory / "adapter_model.safetensors").write_bytes(save(tensors, {"format": "pt"}))


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _say(name: str, metrics: Mapping[str, float]) -> None:
    click.echo(f"{name}: " + ", ".join(f"{key} {value}" for key, value in metrics.items()))


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=data_directory(),
    help="Where to write base/ and prompts/ (default: the data that is shipped).",
)
@click.option("--seed", default=0, show_default=True, help="Of everything that is random.")
@click.option("--quick", is_flag=True, help="Take a few steps only: to try this script.")
def main(out: Path, seed: int, quick: bool) -> None:
    """Train the demo's base model and soft prompts."""
    recipe = Recipe.full(seed)
    make(out, recipe.quick() if quick else recipe)


if __name__ == "__main__":
    main()
