"""Many versions, quickly: what a registry holds after years of sweeps, for measuring and for large tests."""

import random
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy import insert

from promptreg.database import upgrade, urls
from promptreg.database.engine import WRITING, create_engine
from promptreg.database.orm import (
    AliasRow,
    Base,
    BaseModelRow,
    HyperparameterRow,
    ManifestRow,
    MetricRow,
    ObjectRow,
    PromptRow,
    TaskRow,
)
from promptreg.database.scalars import to_row
from promptreg.digests import Digest

__all__ = ["BASES", "LENGTHS", "RATES", "seed"]

BASES = ("gemma", "llama", "t5")
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
LENGTHS = (1, 5, 20, 50, 100, 150)
_BATCH = 10_000
_START = datetime(2024, 1, 1, tzinfo=UTC)

Row = Mapping[str, object]


def seed(url: str, versions: int = 100_000, tasks: int = 1_000) -> None:
    """Fill the empty database at ``url``; the same numbers give the same rows.

    Every version has four hyperparameters (``lr``, ``length``, ``optimizer``, ``seed``) and the metric
    ``accuracy``; every task's newest one has the alias ``prod``.
    """
    upgrade(url)
    engine = create_engine(urls.parse(url))
    with engine.execution_options(**{WRITING: True}).begin() as connection:
        for row, rows in _tables(versions, tasks):
            for start in range(0, len(rows), _BATCH):
                connection.execute(insert(row), rows[start : start + _BATCH])
        if connection.dialect.name == "postgresql":
            for table in ("base_models", "tasks", "prompts", "metrics"):
                # The rows brought their own ids: the next one follows them.
                connection.exec_driver_sql(
                    f"SELECT setval('{table}_id_seq', (SELECT max(id) FROM {table}))"
                )
    engine.dispose()


def _tables(versions: int, tasks: int) -> Iterator[tuple[type[Base], list[Row]]]:
    chance = random.Random(0)
    numbers = range(1, versions + 1)
    per_task = -(-versions // tasks)
    yield (
        ObjectRow,
        [_object(f"tensors{each}") for each in numbers],
    )
    yield ObjectRow, [_object(f"table{name}") for name in BASES]
    yield ManifestRow, [_manifest(each) for each in numbers]
    yield BaseModelRow, [_base(index, name) for index, name in enumerate(BASES, 1)]
    yield (
        TaskRow,
        [
            {"id": each, "name": f"team-{each % 20}/task-{each}", "next_version": per_task + 1}
            for each in range(1, tasks + 1)
        ],
    )
    yield PromptRow, [_prompt(each, tasks) for each in numbers]
    yield (
        HyperparameterRow,
        [
            {"prompt_id": each, "name": name, **to_row(value).columns()}
            for each in numbers
            for name, value in (
                ("lr", chance.choice(RATES)),
                ("length", chance.choice(LENGTHS)),
                ("optimizer", chance.choice(("adafactor", "adamw"))),
                ("seed", chance.randrange(2**31)),
            )
        ],
    )
    yield (
        MetricRow,
        [
            {
                "prompt_id": each,
                "name": "accuracy",
                "recorded_by": "sweep",
                "recorded_at": _START,
                **to_row(round(chance.random(), 6)).columns(),
            }
            for each in numbers
        ],
    )
    yield (
        AliasRow,
        [_alias(each, tasks) for each in range(max(1, versions - tasks + 1), versions + 1)],
    )


def _object(name: str) -> Row:
    return {"digest": str(Digest.of(name.encode())), "size": len(name), "state": "live"}


def _base(index: int, name: str) -> Row:
    return {
        "id": index,
        "fingerprint": f"bfp1:{index:064x}",
        "name": name,
        "embedding": "e" * 64,
        "body": "b" * 64,
        "architecture": "ForCausalLM",
        "model_type": name,
        "encoder_decoder": name == "t5",
        "token_dim": 640,
        "vocab_size": 32_000,
        "num_layers": 12,
        "key_value_dim": 64,
        "parameters": 100_000_000,
        "dtype": "BF16",
        "weight_table": str(Digest.of(f"table{name}".encode())),
        "added_by": "sweep",
        "added_at": _START,
    }


def _manifest(index: int) -> Row:
    document = f"manifest{index}"
    return {"digest": str(Digest.of(document.encode())), "document": document}


def _prompt(index: int, tasks: int) -> Row:
    yanked = index % 100 == 0
    moment = _START + timedelta(minutes=10 * index)
    return {
        "id": index,
        "task_id": _task(index, tasks),
        "version": (index - 1) // tasks + 1,
        "base_id": _base_of(index),
        "digest": str(Digest.of(f"tensors{index}".encode())),
        "manifest": str(Digest.of(f"manifest{index}".encode())),
        "method": "prompt-tuning",
        "task_type": "CAUSAL_LM",
        "placement": "prefix",
        "num_virtual_tokens": LENGTHS[index % len(LENGTHS)],
        "token_dim": 640,
        "note": f"run {index} of the nightly sweep",
        "pushed_by": "sweep",
        "pushed_at": moment,
        "yanked_at": moment if yanked else None,
        "yanked_by": "sweep" if yanked else None,
        "yank_reason": "diverged" if yanked else None,
        "idempotency_key": str(index),
    }


def _alias(index: int, tasks: int) -> Row:
    return {
        "task_id": _task(index, tasks),
        "base_id": _base_of(index),
        "name": "prod",
        "prompt_id": index,
    }


def _task(index: int, tasks: int) -> int:
    return (index - 1) % tasks + 1


def _base_of(index: int) -> int:
    return index % len(BASES) + 1
