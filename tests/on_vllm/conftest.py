"""What the tests on the real vLLM stand on: Gemma 3 270M, prompts for it in a registry, an engine, a server.

``make vllm`` runs them, in an environment of its own. Starting vLLM takes about a minute on a CPU, so one
engine and one server serve them all, in float32: then outputs can be compared exactly.
"""

import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from promptreg import artifacts
from promptreg.prompts import Method, Placement, SoftPrompt, TaskType, Tensor
from promptreg.registry import Registry
from real.bbc import TEMPLATE, TOPICS, read_split
from real.gemma import base_directory

if TYPE_CHECKING:
    from promptreg.inference.vllm import ServerProcess, VLLMEngine

DTYPE = "float32"
SETTINGS: dict[str, Any] = {"enforce_eager": True, "max_model_len": 512}
ARGUMENTS = ("--enforce-eager", "--max-model-len", "512")
STORY_LABELS = ("fairy tale", "fairy story", "news", "old news item")


@pytest.fixture(scope="session", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep promptreg in this run's folder, vLLM small, and everybody off the net."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTREG_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma 3 270M with a chat template, in a directory of its own."""
    directory = tmp_path_factory.mktemp("base") / "gemma-3-270m"
    directory.mkdir()
    for file in base_directory().iterdir():
        (directory / file.name).symlink_to(file)
    template = (
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    )
    (directory / "chat_template.jinja").write_text("{{ bos_token }}" + template)
    return directory


@pytest.fixture(scope="session")
def model(base: Path) -> Any:
    """The base model in this process."""
    import torch
    from transformers import AutoModelForCausalLM

    models: Any = AutoModelForCausalLM
    return models.from_pretrained(base, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def registry_places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What tells a process where the registry is."""
    home = tmp_path_factory.mktemp("data")
    return {
        "PROMPTREG_DATABASE_URL": str(home / "registry.db"),
        "PROMPTREG_OBJECTS_URL": str(home / "objects"),
    }


@pytest.fixture(scope="session")
def registry(
    registry_places: dict[str, str], base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """A registry of prompts on the base model: ``topic`` was trained by PEFT, ``story`` is made of words.

    ``topic@prod`` names the topic of a news article. ``story@1`` stands behind the first token, and its labels
    have several tokens, some in common. ``topics@1`` is an ensemble of three.
    """
    from promptreg.database import upgrade
    from promptreg.models import from_files

    upgrade(registry_places["PROMPTREG_DATABASE_URL"])
    with Registry.open(
        registry_places["PROMPTREG_DATABASE_URL"], registry_places["PROMPTREG_OBJECTS_URL"]
    ) as opened:
        facts = from_files(base)
        topic = train(base, tmp_path_factory.mktemp("trained"))
        labelled: dict[str, Any] = {"base": facts, "template": TEMPLATE, "labels": TOPICS}
        opened.push(topic, task="topic", **labelled, aliases=["prod"])
        opened.push(moved(topic, 0.99), task="topic", **labelled)
        opened.push(moved(topic, 1.01), task="topic", **labelled)
        opened.push_ensemble(["topic@1", "topic@2", "topic@3"], task="topics", vote="mean")
        story = replace(words(base, "Once upon a time, far away"), placement=Placement.AFTER_BOS)
        opened.push(story, task="story", base=facts, template="{text} is a", labels=STORY_LABELS)
        opened.push(words(base, "Write on: "), task="go-on", base=facts)
        yield opened


@pytest.fixture(scope="session")
def engine(base: Path, registry: Registry) -> "Iterator[VLLMEngine]":
    """vLLM in this process, with all prompts."""
    from promptreg.inference.vllm import VLLMEngine

    names = ("topic@prod", "story@1", "go-on@1", "topics@1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM's own, about what it imports
        with VLLMEngine(base, dtype=DTYPE, **SETTINGS) as started:
            for name in names:
                started.add(registry.pull(name), name=name)
            yield started


@pytest.fixture(scope="session")
def server(base: Path) -> "Iterator[ServerProcess]":
    """vLLM's server."""
    from promptreg.inference.vllm import ServedBase, ServerProcess

    with ServerProcess(ServedBase.open(base, dtype=DTYPE), ARGUMENTS) as started:
        started.wait()
        yield started


def train(base: Path, directory: Path) -> SoftPrompt:
    """Return a prompt that PEFT trained to name the topic of an article."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from real.training import SEED, train_prompt

    models: Any = AutoModelForCausalLM
    tokenizers: Any = AutoTokenizer
    model = models.from_pretrained(base, dtype=torch.float32)
    trained = train_prompt(
        model, tokenizers.from_pretrained(base), read_split(test=25, seed=SEED).train
    )
    trained.save_pretrained(directory)
    return artifacts.read(directory)


def words(base: Path, text: str) -> SoftPrompt:
    """Return a prompt whose virtual tokens are the embedded words of ``text``."""
    import torch

    from promptreg.inference.vllm import ServedBase

    served = ServedBase.open(base, dtype=torch.float32)
    return soft_prompt(served.embed(served.read(text, add_special_tokens=False)))


def moved(prompt: SoftPrompt, factor: float) -> SoftPrompt:
    """Return ``prompt`` with every number ``factor`` times as large."""
    import torch

    stored = prompt.tensors["prompt_embeddings"]
    numbers = torch.frombuffer(bytearray(stored.data), dtype=torch.float32).reshape(stored.shape)
    return soft_prompt(numbers * factor)


def soft_prompt(numbers: Any) -> SoftPrompt:
    """Return [P, H] ``numbers`` as a prompt."""
    shape = tuple(numbers.shape)
    tensor = Tensor(dtype="F32", shape=shape, data=numbers.numpy().tobytes())
    return SoftPrompt(
        method=Method.PROMPT_TUNING,
        tensors={"prompt_embeddings": tensor},
        num_virtual_tokens=shape[0],
        token_dim=shape[1],
        task_type=TaskType.CAUSAL_LM,
    )


def environment(places: dict[str, str]) -> dict[str, str]:
    """Return the environment of a process that uses the registry at ``places``."""
    return {**os.environ, **places}
