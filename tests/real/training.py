"""Training a prompt with PEFT, as any of its users would."""

import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from real.bbc import TOPICS, Article, accuracy, as_input

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BATCH_SIZE", "LEARNING_RATE", "SEED", "STEPS", "TOKENS", "Trained", "train_prompt"]

TOKENS = 16
LEARNING_RATE = 0.1
STEPS = 50
BATCH_SIZE = 10
SEED = 0
_WARM_UP = 3
_QUESTION = (
    "Which topic is this news article about: business, entertainment, politics, sports or tech?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained prompt, and what it does where it was trained.

    N is the number of articles to test on, V the vocabulary.

    Attributes:
        directory: What PEFT saved.
        articles: The N articles, none of which it was trained on.
        logits: [N, V] What PEFT's model says after each.
        labels: [N] The topics that it chooses.
        bare_labels: [N] The topics that the bare base model chooses.
    """

    directory: Path
    articles: tuple[Article, ...]
    logits: "Tensor"
    labels: list[str]
    bare_labels: list[str]

    @property
    def accuracy(self) -> float:
        """How often the topic is right."""
        return accuracy(self.labels, self.articles)

    @property
    def bare_accuracy(self) -> float:
        """How often it is right without the prompt."""
        return accuracy(self.bare_labels, self.articles)


def train_prompt(base: Any, tokenizer: Any, articles: Sequence[Article]) -> Any:
    """Train a soft prompt to name an article's topic; the base model's weights stay as they are.

    Args:
        base: The base model, in float32: where a CPU has no bf16 arithmetic, anything else is far slower.
        tokenizer: Its tokenizer.
        articles: What to train on.

    Returns:
        ``base`` in PEFT's wrapper, with the trained prompt.
    """
    import torch
    from peft import PromptTuningConfig, PromptTuningInit, TaskType, get_peft_model
    from torch.nn.functional import cross_entropy

    from real.scoring import label_ids, last_logits

    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=TOKENS,
        prompt_tuning_init=PromptTuningInit.TEXT,
        prompt_tuning_init_text=_QUESTION,
        tokenizer_name_or_path=tokenizer.name_or_path,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name of old
        model = get_peft_model(base, config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _learning_rate)
    targets = dict(zip(TOPICS, label_ids(tokenizer, TOPICS), strict=True))
    for batch in _batches(tokenizer, articles):
        logits = last_logits(model, tokenizer, [as_input(article.text) for article in batch])
        wanted = torch.tensor([targets[article.topic] for article in batch])
        torch.autograd.backward(cross_entropy(logits, wanted))
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


def _learning_rate(step: int) -> float:
    """Return the factor of a short warm-up and a linear decay."""
    return min(1.0, (step + 1) / _WARM_UP) * (1.0 - step / STEPS)


def _batches(tokenizer: Any, articles: Sequence[Article]) -> Iterator[list[Article]]:
    """Yield a batch for each step: articles of like length, so that no time goes into padding."""
    from real.scoring import length_batches

    inputs = [as_input(article.text) for article in articles]
    batches = list(length_batches(tokenizer, inputs, rows=BATCH_SIZE))
    random.Random(SEED).shuffle(batches)
    for batch in batches[:STEPS]:
        yield [articles[index] for index in batch]
