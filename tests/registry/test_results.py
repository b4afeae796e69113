from datetime import UTC, datetime
from typing import Any

import pytest

from promptreg.errors import InvalidNameError, InvalidValueError
from promptreg.prompts import Method
from promptreg.results import Result, check_method
from samples import base_model


def result(**fields: Any) -> Result:
    values: dict[str, Any] = {
        "task": "news",
        "base": base_model().fingerprint,
        "method": "model-tuning",
        "hyperparameters": {"seed": 0},
        "metrics": {"test_accuracy": 0.98, "train_seconds": 12.5},
        "recorded_by": "ada",
        "recorded_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return Result(**{**values, **fields})


@pytest.mark.parametrize(
    "same",
    [
        {"metrics": {"test_accuracy": 0.98, "train_seconds": 99}},
        {"metrics": {"test_accuracy": 0.98}},
        {"recorded_by": "bob", "base_name": "gemma"},
        {"recorded_at": datetime(2027, 1, 1, tzinfo=UTC)},
    ],
)
def test_time_and_person_do_not_tell_results_apart(same: dict[str, Any]) -> None:
    assert result(**same).digest == result().digest


@pytest.mark.parametrize(
    "other",
    [
        {"task": "mail"},
        {"base": base_model(1).fingerprint},
        {"method": "prompt-design"},
        {"hyperparameters": {"seed": 1}},
        {"hyperparameters": {"seed": "0"}},
        {"metrics": {"test_accuracy": 0.97}},
    ],
)
def test_all_else_tells_results_apart(other: dict[str, Any]) -> None:
    assert result(**other).digest != result().digest


@pytest.mark.parametrize("name", ["prompt-design", "model-tuning", "lora", "bitfit-2"])
def test_a_method_is_any_plain_name(name: str) -> None:
    check_method(name)


@pytest.mark.parametrize("name", ["", "Model", "a b", "-a", "a--b", "a" * 33, "é"])
def test_a_method_outside_the_grammar_is_refused(name: str) -> None:
    with pytest.raises(InvalidNameError, match="method"):
        check_method(name)


@pytest.mark.parametrize("method", [*Method])
def test_a_method_that_makes_prompts_makes_no_result(method: str) -> None:
    with pytest.raises(InvalidValueError, match="push the prompt with its metrics"):
        check_method(method)
