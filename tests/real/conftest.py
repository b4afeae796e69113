"""What the real tests stand on: a real base model, and a prompt that PEFT trained on it, once for all of them.

The packages of the extra ``real`` are imported when a test asks for them: ``make real`` fails where one is
missing, and ``make test``, which leaves these tests out, needs none.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines_s3 import S3Server
from engines_sql import PostgresqlServer
from real.bbc import TEMPLATE, TOPICS, as_input, read_split
from real.gemma import base_directory, write_perturbed
from real.sides import Side
from real.training import BATCH_SIZE, LEARNING_RATE, SEED, STEPS, Trained, train_prompt

_TESTED = 25  # articles of each topic


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let promptreg keep what it remembers in this run's folder, not in the developer's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTREG_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def base() -> Path:
    """The directory of Gemma 3 270M."""
    return base_directory()


@pytest.fixture(scope="session")
def wrong_base(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same architecture in another directory, with one layer perturbed."""
    directory = tmp_path_factory.mktemp("wrong") / "gemma"
    write_perturbed(base, directory)
    yield directory
    shutil.rmtree(directory)  # half a gigabyte, and pytest keeps the folders of its last runs


@pytest.fixture(scope="session")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A prompt that PEFT trained for a few dozen steps: most of the minutes that these tests take."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from real.scoring import choose, score

    split = read_split(test=_TESTED, seed=SEED)
    inputs = [as_input(article.text) for article in split.test]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    bare_labels = choose(score(model, tokenizer, inputs), tokenizer, TOPICS)
    peft_model = train_prompt(model, tokenizer, split.train)
    logits = score(peft_model, tokenizer, inputs)
    directory = tmp_path_factory.mktemp("trained")
    peft_model.save_pretrained(directory)
    return Trained(
        directory=directory,
        articles=split.test,
        logits=logits,
        labels=choose(logits, tokenizer, TOPICS),
        bare_labels=bare_labels,
    )


@pytest.fixture(scope="session", params=["embedded", "servers"])
def registry(request: pytest.FixtureRequest) -> dict[str, str]:
    """What tells a process where an empty registry is: the default one, and one on real servers."""
    environment: dict[str, str] = request.getfixturevalue(f"{request.param}_registry")
    return environment


@pytest.fixture(scope="session")
def embedded_registry(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """SQLite and a directory, without any configuration but where a user's data lies."""
    return {"PROMPTREG_DATA_DIR": str(tmp_path_factory.mktemp("data"))}


@pytest.fixture(scope="session")
def servers_registry(
    postgresql_server: PostgresqlServer, seaweedfs_server: S3Server
) -> Iterator[dict[str, str]]:
    """PostgreSQL and SeaweedFS."""
    with postgresql_server.database() as url:
        yield {
            "PROMPTREG_DATABASE_URL": url,
            "PROMPTREG_OBJECTS_URL": seaweedfs_server.url("real"),
            "AWS_ACCESS_KEY_ID": seaweedfs_server.access_key,
            "AWS_SECRET_ACCESS_KEY": seaweedfs_server.secret_key,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@pytest.fixture(scope="session")
def training_side(
    registry: dict[str, str],
    trained: Trained,
    base: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Side:
    """The machine where the prompt was trained, and from which it has been pushed as ``bbc/topic@1``."""
    side = Side(registry=registry, cache=tmp_path_factory.mktemp("training-side"))
    side.promptreg("upgrade")
    labels = [word for topic in TOPICS for word in ("--label", topic)]
    facts = {"learning_rate": LEARNING_RATE, "steps": STEPS, "batch_size": BATCH_SIZE, "seed": SEED}
    hyperparameters = [
        word for key, value in facts.items() for word in ("--hyperparameter", f"{key}={value}")
    ]
    side.promptreg(
        *("push", trained.directory, "--task", "bbc/topic", "--base", base, "--alias", "prod"),
        *("--template", TEMPLATE, *labels),
        *(*hyperparameters, "--metric", f"accuracy={trained.accuracy}"),
    )
    return side
