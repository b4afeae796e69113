import subprocess
import sys
from typing import Any

import pytest

import promptreg


def test_all_is_sorted_and_whole() -> None:
    assert promptreg.__all__ == sorted(promptreg._MODULES)


@pytest.mark.parametrize("name", promptreg.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(promptreg, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    module: Any = promptreg
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


HEAVY = {"torch", "transformers", "boto3", "botocore", "numpy", "alembic", "lark", "safetensors"}


@pytest.mark.parametrize(
    "statement",
    ["import promptreg", "from promptreg import Registry", "import promptreg_cli.main"],
)
def test_starting_imports_nothing_heavy(statement: str) -> None:
    program = f"import sys; {statement}; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not HEAVY & set(loaded)
