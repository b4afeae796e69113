"""Training the demo's base model, and then soft prompts in front of it with its weights frozen.

The shapes: B batch, P prompt tokens, T input tokens, H embedding width, V vocabulary.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from promptreg_cli.demo import tasks

__all__ = ["Schedule", "make_base", "train_base", "train_prompt"]

_NO_LOSS = -100  # the label that cross_entropy passes over


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast to train: a short warm-up, a plateau, and a decay to nothing.

    Attributes:
        steps: How many batches.
        batch_size: Examples in a batch.
        learning_rate: That of the plateau.
        weight_decay: That of AdamW.
        seed: Of the data's order and of the initial values.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    seed: int = 0

    def factor(self, step: int) -> float:
        """Return what to multiply the learning rate with at ``step``."""
        warm_up, decay = max(1, self.steps // 20), max(1, self.steps // 2)
        return min(1.0, (step + 1) / warm_up, (self.steps - step) / decay)


def make_base(tokenizer: Any, seed: int) -> Any:
    """Return the small Llama with random weights that :func:`train_base` trains."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=128,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train_base(model: Any, tokenizer: Any, schedule: Schedule) -> float:
    """Teach ``model`` all of :data:`tasks.INSTRUCTIONS`, and return the last loss."""
    rng = random.Random(schedule.seed)  # noqa: S311 - repeatable data, not a secret

    def loss() -> Tensor:
        examples = [tasks.base_example(rng) for _ in range(schedule.batch_size)]
        tokens, labels = _collate(tokenizer, examples)
        return _loss(model(input_ids=tokens, use_cache=False).logits, labels)

    model.train()
    last = _minimise(loss, list(model.parameters()), schedule)
    model.eval()
    return last


def train_prompt(
    model: Any, tokenizer: Any, task: str, num_virtual_tokens: int, schedule: Schedule
) -> tuple[Tensor, float]:
    """Train a soft prompt for ``task`` in front of ``model``, whose weights stay as they are.

    The prompt stands before the whole input, ``<s>`` included, which is where PEFT puts it.

    Returns:
        [P, H] the soft prompt in float32; and the last loss.
    """
    model.requires_grad_(requires_grad=False)
    embed = model.get_input_embeddings()
    generator = torch.Generator().manual_seed(schedule.seed)
    sampled = torch.randint(len(embed.weight), (num_virtual_tokens,), generator=generator)
    prompt = embed.weight[sampled].float().requires_grad_()  # [P, H]
    rng = random.Random(schedule.seed)  # noqa: S311 - repeatable data, not a secret

    def loss() -> Tensor:
        examples = [tasks.task_example(task, rng) for _ in range(schedule.batch_size)]
        tokens, labels = _collate(tokenizer, examples)
        prompts = prompt.expand(len(tokens), -1, -1)  # [B, P, H]
        prompted = torch.cat([prompts, embed(tokens)], dim=1)  # [B, P + T, H]
        logits = model(inputs_embeds=prompted, use_cache=False).logits
        return _loss(logits[:, num_virtual_tokens:], labels)

    last = _minimise(loss, [prompt], schedule)
    return prompt.detach(), last


def _collate(tokenizer: Any, examples: Sequence[tasks.Example]) -> tuple[Tensor, Tensor]:
    """Put ``examples`` into one batch, padded on the right, where causal attention hides it.

    Only answers have labels. So the model never learns to go on with a word's letters: after any
    letter it answers, and a bare word needs no mark at its end.

    Returns:
        [B, T] the tokens; and [B, T] the labels.
    """
    questions = tokenizer([example.question for example in examples]).input_ids
    answers = tokenizer(
        [example.answer for example in examples], add_special_tokens=False
    ).input_ids
    width = max(len(q) + len(a) for q, a in zip(questions, answers, strict=True)) + 1
    tokens = torch.full((len(examples), width), tokenizer.pad_token_id)  # [B, T]
    labels = torch.full_like(tokens, _NO_LOSS)
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        line = torch.tensor([*question, *answer, tokenizer.eos_token_id])
        tokens[row, : len(line)] = line
        labels[row, len(question) : len(line)] = line[len(question) :]
    return tokens, labels


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss of the labelled tokens.

    Args:
        logits: [B, T, V]
        labels: [B, T]
    """
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_NO_LOSS
    )


def _minimise(loss: Callable[[], Tensor], parameters: list[Tensor], schedule: Schedule) -> float:
    optimizer = torch.optim.AdamW(
        parameters,
        lr=schedule.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=schedule.weight_decay,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.factor)
    last = float("nan")
    for _ in range(schedule.steps):
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        last = value.item()
    return last
