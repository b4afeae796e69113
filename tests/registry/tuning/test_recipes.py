"""Recipes check themselves, and grids are all combinations of their axes."""

import pytest

from promptreg.errors import InvalidValueError
from promptreg.tuning import Optimizer, Recipe, Schedule, expand, read_grid
from promptreg.tuning.recipes import GRID_NAMES


def test_a_grid_is_all_combinations() -> None:
    axes = [
        read_grid("length=1,5"),
        read_grid('init=vocab,"text:first, second"'),
        read_grid("lr=0.1"),
    ]
    found = [
        (each.num_virtual_tokens, each.init, each.learning_rate) for each in expand(Recipe(), axes)
    ]
    assert found == [
        (1, "vocab", 0.1),
        (1, "text:first, second", 0.1),
        (5, "vocab", 0.1),
        (5, "text:first, second", 0.1),
    ]


@pytest.mark.parametrize(
    ("axis", "reason"),
    [
        ("length", "AXIS=VALUE"),
        ("colour=1", "axes are length"),
        ("length=1,x", "no int"),
        ("lr=fast", "no float"),
        ("length=", "no values"),
        ("length=5,5", "twice"),
    ],
)
def test_an_axis_that_makes_no_sense_is_refused(axis: str, reason: str) -> None:
    with pytest.raises(InvalidValueError, match=reason):
        read_grid(axis)


@pytest.mark.parametrize("name", GRID_NAMES)
def test_every_axis_can_be_swept(name: str) -> None:
    words = {"init": "random,vocab", "optimizer": "adamw,adafactor", "schedule": "linear,cosine"}
    words |= {"placement": "prefix,after-bos", "warmup": "0,0.5", "weight_decay": "0,0.1"}
    field, values = read_grid(f"{name}={words.get(name, '1,2')}")
    found = [getattr(recipe, field) for recipe in expand(Recipe(), [(field, values)])]
    assert len(set(found)) == 2


def test_an_axis_that_is_given_twice_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="twice"):
        expand(Recipe(), [read_grid("length=1"), read_grid("length=2")])


@pytest.mark.parametrize(
    "fields",
    [
        {"num_virtual_tokens": 0},
        {"steps": 0},
        {"learning_rate": float("nan")},
        {"clip": 0.0},
        {"seed": -1},
        {"batch_size": True},
        {"warmup": "0.1"},
        {"learning_rate": True},
        {"init": None},
        {"init": "vocabulary"},
        {"init": "text: "},
        {"optimizer": "sgd"},
        {"schedule": "step"},
        {"placement": "key-values"},
    ],
    ids=str,
)
def test_a_value_that_makes_no_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidValueError):
        Recipe(**fields)  # type: ignore[arg-type]


def test_each_optimizer_brings_its_own_defaults() -> None:
    adafactor = Recipe(optimizer=Optimizer.ADAFACTOR).used
    assert (adafactor.learning_rate, adafactor.weight_decay) == (0.3, 1e-5)
    assert adafactor.schedule is Schedule.CONSTANT
    assert Recipe(schedule=Schedule.LINEAR).used.schedule is Schedule.LINEAR


def test_hyperparameters_are_what_a_registry_can_hold() -> None:
    found = Recipe(steps=200).hyperparameters
    assert found["optimizer"] == "adamw"
    assert type(found["schedule"]) is str
    assert found["evaluate_every"] == 20
    assert not {"init", "num_virtual_tokens", "placement"} & found.keys()
