import pytest
import torch

from promptreg_cli.demo import training, vocabulary
from promptreg_cli.demo.training import Schedule


def test_training_a_prompt_leaves_every_weight_of_the_base_as_it_was() -> None:
    tokenizer = vocabulary.make_tokenizer()
    base = training.make_base(tokenizer, seed=0)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    schedule = Schedule(steps=2, batch_size=2, learning_rate=0.1)
    prompt, loss = training.train_prompt(base, tokenizer, "reverse", 3, schedule)
    assert prompt.shape == (3, base.config.hidden_size)
    assert prompt.dtype == torch.float32
    assert loss > 0
    assert all(tensor.equal(before[name]) for name, tensor in base.state_dict().items())
    assert all(parameter.grad is None for parameter in base.parameters())


def test_the_learning_rate_warms_up_and_decays() -> None:
    schedule = Schedule(steps=100, batch_size=1, learning_rate=1.0)
    assert schedule.factor(0) == pytest.approx(0.2)
    assert schedule.factor(4) == schedule.factor(50) == 1.0
    assert schedule.factor(75) == pytest.approx(0.5)
    assert schedule.factor(99) == pytest.approx(0.02)
