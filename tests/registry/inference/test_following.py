"""A follower keeps prompts at what their aliases mean, and never swaps a good one for a bad one."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import promptreg
from promptreg import Digest, PromptedModel, Registry
from promptreg.errors import ConfigurationError, IncompatibleModelError, NotFoundError
from registry.models.architectures import make
from registry.models.test_attached import IDS, soft


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    url = f"sqlite:///{tmp_path / 'promptreg.db'}"
    Registry.upgrade(url)
    with Registry.open(url, str(tmp_path / "objects")) as registry:
        yield registry


@pytest.fixture
def model() -> Any:
    return make("llama")


@pytest.fixture
def prompted(model: Any, registry: Registry) -> Iterator[PromptedModel]:
    base = promptreg.from_module(model)
    registry.push(soft(4), task="spam", base=base, aliases=["prod"])
    registry.push(soft(5), task="spam", base=base)
    with promptreg.attach(model) as prompted:
        yield prompted


def of(prompted: PromptedModel, name: str) -> str:
    version = prompted.prompts[name].version
    assert version is not None
    return version.ref


def test_it_attaches_what_the_references_mean(prompted: PromptedModel, registry: Registry) -> None:
    with promptreg.follow(prompted, registry, ["spam@prod", "spam"]):
        assert of(prompted, "spam@prod") == "spam@1"
        assert of(prompted, "spam") == "spam@2"
        with torch.no_grad():
            assert prompted(IDS, prompts=["spam@prod", "spam"]).logits.shape[0] == 2


def test_a_moved_alias_is_picked_up_warm(prompted: PromptedModel, registry: Registry) -> None:
    said: list[str] = []
    with promptreg.follow(
        prompted, registry, ["spam@prod"], interval=3600, on_change=said.append
    ) as follower:
        assert follower.renew() == []
        registry.set_alias("spam@2", "prod")
        assert follower.renew() == ["spam@prod is spam@2 now, and was spam@1"]
        assert said == ["spam@prod is spam@2 now, and was spam@1"]
        (tokens,) = prompted.prompts["spam@prod"].tokens
        assert tokens.length == 5
        assert tokens in prompted._prompts.tables
        assert len(prompted.prompts) == 1


def test_its_thread_picks_up_a_moved_alias(prompted: PromptedModel, registry: Registry) -> None:
    moved = threading.Event()
    with promptreg.follow(
        prompted, registry, ["spam@prod"], interval=0.01, on_change=lambda _: moved.set()
    ):
        registry.set_alias("spam@2", "prod")
        assert moved.wait(30)
        assert of(prompted, "spam@prod") == "spam@2"


def test_a_prompt_for_another_base_never_replaces_a_good_one(
    prompted: PromptedModel, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    other = promptreg.from_module(make("llama", seed=1))
    before = prompted.model
    with promptreg.follow(prompted, registry, ["spam"], interval=3600) as follower:
        assert of(prompted, "spam") == "spam@2"
        registry.push(soft(6), task="spam", base=other)
        for _ in range(2):
            assert follower.renew() == []
        assert of(prompted, "spam") == "spam@2"
    assert prompted.model is before
    assert len(caplog.records) == len(follower.problems)


def test_a_prompt_whose_bytes_are_damaged_never_replaces_a_good_one(
    prompted: PromptedModel, registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with promptreg.follow(prompted, registry, ["spam@prod"], interval=3600) as follower:
        registry.set_alias("spam@2", "prod")
        digest = registry.resolve("spam@2").digest
        stored = next(
            path
            for path in (tmp_path / "objects").rglob("*")
            if path.is_file() and Digest.of(path.read_bytes()) == digest
        )
        whole = stored.read_bytes()
        stored.chmod(0o600)
        stored.write_bytes(whole[:-1] + b"\0")
        for _ in range(2):
            assert follower.renew() == []
        assert "sha256" in follower.problems["spam@prod"]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert of(prompted, "spam@prod") == "spam@1"
        stored.write_bytes(whole)
        assert follower.renew() == ["spam@prod is spam@2 now, and was spam@1"]
        assert follower.problems == {}


def test_a_withdrawn_version_stays_until_there_is_another(
    prompted: PromptedModel, registry: Registry
) -> None:
    with promptreg.follow(prompted, registry, ["spam"], interval=3600) as follower:
        registry.yank("spam@2", reason="leaks")
        assert follower.renew() == ["spam is spam@1 now, and was spam@2"]
        registry.yank("spam@1", reason="leaks too")
        assert follower.renew() == []
        assert "spam" in follower.problems
        assert of(prompted, "spam") == "spam@1"


def test_one_that_was_removed_is_not_brought_back(
    prompted: PromptedModel, registry: Registry
) -> None:
    with promptreg.follow(prompted, registry, ["spam@prod"], interval=3600) as follower:
        prompted.remove("spam@prod")
        registry.set_alias("spam@2", "prod")
        assert follower.renew() == []
        assert not prompted.prompts


def test_what_cannot_be_had_at_the_start_is_an_error_and_attaches_nothing(
    prompted: PromptedModel, registry: Registry
) -> None:
    with pytest.raises(NotFoundError):
        promptreg.follow(prompted, registry, ["spam@prod", "spam@nope"])
    assert not prompted.prompts
    other = promptreg.from_module(make("llama", seed=1))
    registry.push(soft(6), task="ham", base=other)
    with pytest.raises((IncompatibleModelError, promptreg.PromptregError)):
        promptreg.follow(prompted, registry, ["spam@prod", "ham"])
    assert not prompted.prompts
    with pytest.raises(ConfigurationError, match="it is no time to wait"):
        promptreg.follow(prompted, registry, ["spam"], interval=0)


def test_what_was_attached_before_a_failed_start_is_put_back(
    prompted: PromptedModel, registry: Registry
) -> None:
    prompted.add(soft(7), name="spam@prod", policy="unchecked")
    before = prompted.prompts["spam@prod"]
    other = promptreg.from_module(make("llama", seed=1))
    registry.push(soft(6), task="ham", base=other)
    for bad in ("spam@nope", "ham"):
        with pytest.raises(promptreg.PromptregError):
            promptreg.follow(prompted, registry, ["spam@prod", bad])
        assert prompted.prompts["spam@prod"] is before
        assert list(prompted.prompts) == ["spam@prod"]


def test_a_listener_may_fail_or_close(
    prompted: PromptedModel, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    closed = threading.Event()

    def listen(_change: str) -> None:
        follower.close()
        closed.set()
        raise RuntimeError("the listener's own")

    follower = promptreg.follow(prompted, registry, ["spam@prod"], interval=0.01, on_change=listen)
    registry.set_alias("spam@2", "prod")
    assert closed.wait(30)
    follower.close()
    assert of(prompted, "spam@prod") == "spam@2"
    assert "on_change failed" in caplog.text


def test_one_text_is_no_list_of_references(prompted: PromptedModel, registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match="pass \\['spam@prod'\\]"):
        promptreg.follow(prompted, registry, "spam@prod")


def test_batches_go_on_while_an_alias_moves(prompted: PromptedModel, registry: Registry) -> None:
    with torch.no_grad():
        with promptreg.attach(prompted.model, soft(4), soft(5), policy="unchecked") as both:
            wanted = [
                both(IDS, prompts=[name] * 2).logits
                for name in ("unregistered-1", "unregistered-2")
            ]
        changed = threading.Event()
        with promptreg.follow(
            prompted, registry, ["spam@prod"], interval=0.001, on_change=lambda _: changed.set()
        ):
            for turn in range(60):
                if turn % 10 == 5:
                    changed.clear()
                    registry.set_alias(f"spam@{1 + (turn // 10 + 1) % 2}", "prod")
                    changed.wait(0.05)
                logits = prompted(IDS, prompts=["spam@prod"] * 2).logits
                assert any(torch.allclose(logits, each, atol=1e-5) for each in wanted)
